"""Attention's two products, in tiles of rows that stay in registers: scores, and weighted values.

A row is one query head of one token. Each result is summed in the order of the summed index, one
fused multiply-add after the other, so it does not depend on the rows in its tile. What is read
from the cache is widened to float32 once for all rows of a tile.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import HAS_AVX512, LANES, call_llvm, element_pointer, splat, widen

CHUNK = 64
"""Slots of keys whose scores lie side by side in a row of scores."""
TALL = 12 if HAS_AVX512 else 6
"""Rows of the largest tile; the queries lie in blocks of so many rows."""
_HEIGHTS = (TALL, 4, 3, 2, 1)
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def score(typing, num_rows, queries, depth, keys, first, second, stride, scores, column):
    """Scores of all rows with the keys of two groups of 16 slots, that begin at `first`, `second`.

    queries: [num_rows / TALL, depth padded to 16, TALL], from 0. keys: `depth` rows of `stride`
    elements.
    scores: [num_rows, CHUNK]; the results go to the 32 columns from `column`.
    """

    def generate(context, builder, signature, arguments):
        num_rows, queries_, depth, keys_, first, second, stride, scores_, column = arguments
        groups = [element_pointer(context, builder, keys, keys_, at) for at in (first, second)]

        def emit_tile(row, height):
            padded = builder.and_(builder.add(depth, _I64(LANES - 1)), _I64(-LANES))
            block = builder.sub(row, builder.urem(row, _I64(TALL)))
            place = builder.add(builder.mul(block, padded), builder.urem(row, _I64(TALL)))
            query = element_pointer(context, builder, queries, queries_, place)
            place = builder.add(builder.mul(row, _I64(CHUNK)), column)
            target = element_pointer(context, builder, scores, scores_, place)
            width = _width(height)
            for left in range(0, 2, width):
                places = [
                    _vector_pointer(builder, target, _I64(i * CHUNK + j * LANES))
                    for i in range(height)
                    for j in range(left, left + width)
                ]
                pointers = groups[left : left + width]
                _emit_score_tile(builder, keys.dtype, places, query, pointers, stride, depth)

        _emit_tiles(builder, num_rows, emit_tile)
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, queries, n, keys, n, n, n, scores, n), generate


@intrinsic
def add_values(
    typing,
    num_rows,
    num_vectors,
    weights,
    column,
    values,
    first,
    num_slots,
    sums,
    place,
    row_stride,
):
    """Adds to every row's sums its weights' products with the values of up to 16 slots.

    weights: [num_rows, CHUNK], from `column` on. values: [num_slots, 16 * num_vectors] from
    `first`. sums: [num_rows] rows of `row_stride` elements from `place`.
    """

    def generate(context, builder, signature, arguments):
        num_rows, num_vectors, weights_, column, values_, first = arguments[:6]
        num_slots, sums_, place, row_stride = arguments[6:]
        source = element_pointer(context, builder, values, values_, first)
        stride = builder.mul(num_vectors, _I64(LANES))

        def emit_tile(row, height):
            at = builder.add(builder.mul(row, _I64(CHUNK)), column)
            factors = element_pointer(context, builder, weights, weights_, at)
            at = builder.add(builder.mul(row, row_stride), place)
            target = element_pointer(context, builder, sums, sums_, at)

            def emit_columns(vector, width):
                at = builder.mul(vector, _I64(LANES))
                slots, totals = builder.gep(source, [at]), builder.gep(target, [at])
                places = [
                    _vector_pointer(
                        builder, totals, builder.add(builder.mul(row_stride, _I64(i)), _I64(j))
                    )
                    for i in range(height)
                    for j in range(0, width * LANES, LANES)
                ]
                _emit_value_tile(
                    builder, values.dtype, width, places, factors, slots, stride, num_slots
                )

            width = _width(height)
            pairs = builder.udiv(num_vectors, _I64(width))
            with cgutils.for_range(builder, pairs) as loop:
                emit_columns(builder.mul(loop.index, _I64(width)), width)
            if width == 2:
                with builder.if_then(builder.trunc(num_vectors, ir.IntType(1)), likely=False):
                    emit_columns(builder.sub(num_vectors, _I64(1)), 1)

        _emit_tiles(builder, num_rows, emit_tile)
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, n, weights, n, values, n, n, sums, n, n), generate


def _emit_tiles(builder, num_rows, emit_tile):
    """Calls `emit_tile(first row, height)` so that tiles of the tallest heights cover all rows."""
    done = _I64(0)
    for height in _HEIGHTS:
        count = builder.udiv(builder.sub(num_rows, done), _I64(height))
        with cgutils.for_range(builder, count) as loop:
            emit_tile(builder.add(done, builder.mul(loop.index, _I64(height))), height)
        done = builder.add(done, builder.mul(count, _I64(height)))


def _width(height):
    """How many vectors of sums in each row of a tile the registers hold, beside the factors: 24 of
    32 with AVX-512; 12 of 16 with AVX2, where a vector of 16 takes two."""
    return 2 if HAS_AVX512 or height <= 2 else 1


def _emit_score_tile(builder, dtype, places, query, groups, stride, depth):
    """Puts rows of `len(groups)` vectors of scores at `places`."""
    sums = _registers(builder, len(places) // len(groups), len(groups))
    for total in sum(sums, []):
        builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
    with cgutils.for_range(builder, depth) as loop:
        at = builder.mul(loop.index, stride)
        vectors = [widen(builder, dtype, builder.gep(group, [at])) for group in groups]
        factors = builder.gep(query, [builder.mul(loop.index, _I64(TALL))])
        _accumulate(builder, sums, factors, 1, vectors)
    for place, total in zip(places, sum(sums, []), strict=True):
        builder.store(builder.load(total), place).align = 4


def _emit_value_tile(builder, dtype, width, places, factors, slots, stride, num_slots):
    """Adds to the vectors at `places`, which are rows of `width`."""
    height = len(places) // width
    sums = _registers(builder, height, width)
    for place, total in zip(places, sum(sums, []), strict=True):
        before = builder.load(place)
        before.align = 4
        builder.store(before, total)
    with cgutils.for_range(builder, num_slots) as loop:
        slot = builder.gep(slots, [builder.mul(loop.index, stride)])
        vectors = [
            widen(builder, dtype, builder.gep(slot, [_I64(j * LANES)])) for j in range(width)
        ]
        _accumulate(builder, sums, builder.gep(factors, [loop.index]), CHUNK, vectors)
    for place, total in zip(places, sum(sums, []), strict=True):
        builder.store(builder.load(total), place).align = 4


def _accumulate(builder, sums, factors, stride, vectors):
    """sums[row][j] += factors[row * stride] * vectors[j]."""
    for row, totals in enumerate(sums):
        factor = splat(builder, builder.load(builder.gep(factors, [_I64(row * stride)])))
        for total, vector in zip(totals, vectors, strict=True):
            arguments = [factor, vector, builder.load(total)]
            builder.store(call_llvm(builder, "llvm.fma.v16f32", _VECTOR, arguments), total)


def _registers(builder, num_rows, num_columns):
    """Variables of 16 float32, which LLVM keeps in registers."""
    return [
        [cgutils.alloca_once(builder, _VECTOR) for _ in range(num_columns)] for _ in range(num_rows)
    ]


def _vector_pointer(builder, pointer, offset):
    return builder.bitcast(builder.gep(pointer, [offset]), _VECTOR.as_pointer())
