"""Attention's two products, in tiles of rows that stay in registers: scores, and weighted values.

A row is one query head of one token. Each result is summed in the order of the summed index, one
fused multiply-add after the other, so it does not depend on the rows in its tile. What is read
from the cache is widened to float32 once for all rows of a tile.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import LANES, call_llvm, compiled, element_pointer, splat, widen

CHUNK = 64
"""Slots of keys whose scores lie side by side in a row of scores."""
_HAS_32_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f"))
TALL = 12 if _HAS_32_REGISTERS else 6
"""Rows of the largest tile; the queries lie in blocks of so many rows."""
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _accumulate(builder, accumulators, pointers, vectors):
    """accumulators[row][column] += the scalar at pointers[row] * vectors[column]."""
    for row, pointer in zip(accumulators, pointers, strict=True):
        factor = splat(builder, builder.load(pointer))
        for accumulator, vector in zip(row, vectors, strict=True):
            arguments = [factor, vector, builder.load(accumulator)]
            total = call_llvm(builder, "llvm.fma.v16f32", _VECTOR, arguments)
            builder.store(total, accumulator)


def _registers(builder, num_rows, num_columns):
    """Variables of 16 float32, which LLVM keeps in registers."""
    return [
        [cgutils.alloca_once(builder, _VECTOR) for _ in range(num_columns)] for _ in range(num_rows)
    ]


def _vector_pointer(builder, pointer, offset):
    return builder.bitcast(builder.gep(pointer, [offset]), _VECTOR.as_pointer())


def _make_score_tile(num_rows: int):
    """The scores of some rows with the keys of two groups of 16 slots."""

    @intrinsic
    def tile(typing, queries, query, keys, first, second, stride, depth, scores, score):
        """queries [depth, TALL] from `query`, keys [depth] rows of `stride` elements from `first`
        and `second` -> scores [num_rows, CHUNK] from `score`."""

        def generate(context, builder, signature, arguments):
            pointer = element_pointer(context, builder, queries, *arguments[:2])
            groups = [
                element_pointer(context, builder, keys, arguments[2], place)
                for place in arguments[3:5]
            ]
            stride, depth = arguments[5:7]
            target = element_pointer(context, builder, scores, *arguments[7:])
            sums = _registers(builder, num_rows, 2)
            for accumulator in sum(sums, []):
                builder.store(ir.Constant(_VECTOR, [0.0] * LANES), accumulator)
            with cgutils.for_range(builder, depth) as loop:
                place = builder.mul(loop.index, stride)
                vectors = [
                    widen(builder, keys.dtype, builder.gep(group, [place])) for group in groups
                ]
                factors = builder.gep(pointer, [builder.mul(loop.index, _I64(TALL))])
                rows = [builder.gep(factors, [_I64(row)]) for row in range(num_rows)]
                _accumulate(builder, sums, rows, vectors)
            for row, columns in enumerate(sums):
                for column, accumulator in enumerate(columns):
                    offset = _I64(row * CHUNK + column * LANES)
                    place = _vector_pointer(builder, target, offset)
                    builder.store(builder.load(accumulator), place).align = 4
            return context.get_dummy_value()

        offset = types.intp
        return types.void(
            queries, offset, keys, offset, offset, offset, offset, scores, offset
        ), generate

    return tile


def _make_value_tile(num_rows: int, num_columns: int):
    """Adds weighted values of up to 16 slots to some rows' sums, in some vectors of columns."""

    @intrinsic
    def tile(typing, weights, weight, values, value, stride, num_slots, sums, place, row_stride):
        """weights [num_rows, CHUNK] from `weight`, values [num_slots] rows of `stride` elements
        from `value` -> sums [num_rows] rows of `row_stride` elements from `place`."""

        def generate(context, builder, signature, arguments):
            pointer = element_pointer(context, builder, weights, *arguments[:2])
            source = element_pointer(context, builder, values, *arguments[2:4])
            stride, num_slots = arguments[4:6]
            target = element_pointer(context, builder, sums, *arguments[6:8])
            totals = _registers(builder, num_rows, num_columns)
            places = []
            for row, columns in enumerate(totals):
                start = builder.gep(target, [builder.mul(arguments[8], _I64(row))])
                for column, accumulator in enumerate(columns):
                    places.append(_vector_pointer(builder, start, _I64(column * LANES)))
                    before = builder.load(places[-1])
                    before.align = 4
                    builder.store(before, accumulator)
            with cgutils.for_range(builder, num_slots) as loop:
                slot = builder.gep(source, [builder.mul(loop.index, stride)])
                vectors = [
                    widen(builder, values.dtype, builder.gep(slot, [_I64(column * LANES)]))
                    for column in range(num_columns)
                ]
                factors = builder.gep(pointer, [loop.index])
                rows = [builder.gep(factors, [_I64(row * CHUNK)]) for row in range(num_rows)]
                _accumulate(builder, totals, rows, vectors)
            for place, accumulator in zip(places, sum(totals, []), strict=True):
                builder.store(builder.load(accumulator), place).align = 4
            return context.get_dummy_value()

        offset = types.intp
        return types.void(
            weights, offset, values, offset, offset, offset, sums, offset, offset
        ), generate

    return tile


_scores_tall, _scores_4, _scores_3, _scores_2, _scores_1 = (
    _make_score_tile(num_rows) for num_rows in (TALL, 4, 3, 2, 1)
)


@compiled
def score(num_rows, queries, keys, first, second, stride, depth, scores, column):
    """Scores of all rows with the keys of two groups of 16 slots, that begin at `first`, `second`.

    queries: [num_rows / TALL, depth, TALL], from 0. keys: `depth` rows of `stride` elements.
    scores: [num_rows, CHUNK]; the results go to the 32 columns from `column`.
    """
    row = 0
    while row < num_rows:
        left = num_rows - row
        query = row // TALL * depth * TALL + row % TALL
        place = row * CHUNK + column
        if left >= TALL:
            _scores_tall(queries, query, keys, first, second, stride, depth, scores, place)
            row += TALL
        elif left >= 4:
            _scores_4(queries, query, keys, first, second, stride, depth, scores, place)
            row += 4
        elif left == 3:
            _scores_3(queries, query, keys, first, second, stride, depth, scores, place)
            row += 3
        elif left == 2:
            _scores_2(queries, query, keys, first, second, stride, depth, scores, place)
            row += 2
        else:
            _scores_1(queries, query, keys, first, second, stride, depth, scores, place)
            row += 1


_WIDE = 2 if _HAS_32_REGISTERS else 1
_values_tall, _values_4, _values_3, _values_2, _values_1 = (
    _make_value_tile(*shape) for shape in ((TALL, _WIDE), (4, _WIDE), (3, _WIDE), (2, 2), (1, 2))
)
_values_tall_narrow, _values_1_narrow = (_make_value_tile(num_rows, 1) for num_rows in (TALL, 1))


@compiled
def add_values(
    num_rows, num_vectors, weights, column, values, first, num_slots, sums, place, row_stride
):
    """Adds to every row's sums its weights' products with the values of up to 16 slots.

    weights: [num_rows, CHUNK], from `column` on. values: [num_slots, 16 * num_vectors] from
    `first`. sums: [num_rows] rows of `row_stride` elements from `place`.
    """
    stride = num_vectors * LANES
    row = 0
    while row < num_rows:
        left = num_rows - row
        height = TALL if left >= TALL else min(left, 4)
        width = _WIDE if height > 2 else 2
        weight = row * CHUNK + column
        target = place + row * row_stride
        vector = 0
        while vector < num_vectors:
            value, to = first + vector * LANES, target + vector * LANES
            if vector + width > num_vectors:
                _add_narrow(
                    height, weights, weight, values, value, stride, num_slots, sums, to, row_stride
                )
            elif height == TALL:
                _values_tall(
                    weights, weight, values, value, stride, num_slots, sums, to, row_stride
                )
            elif height == 4:
                _values_4(weights, weight, values, value, stride, num_slots, sums, to, row_stride)
            elif height == 3:
                _values_3(weights, weight, values, value, stride, num_slots, sums, to, row_stride)
            elif height == 2:
                _values_2(weights, weight, values, value, stride, num_slots, sums, to, row_stride)
            else:
                _values_1(weights, weight, values, value, stride, num_slots, sums, to, row_stride)
            vector += width
        row += height


@compiled
def _add_narrow(height, weights, weight, values, value, stride, num_slots, sums, to, row_stride):
    """The last 16 columns, when they are an odd number of vectors."""
    if height == TALL:
        _values_tall_narrow(weights, weight, values, value, stride, num_slots, sums, to, row_stride)
        return
    for row in range(height):
        _values_1_narrow(
            weights,
            weight + row * CHUNK,
            values,
            value,
            stride,
            num_slots,
            sums,
            to + row * row_stride,
            row_stride,
        )
