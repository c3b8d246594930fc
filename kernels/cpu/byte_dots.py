"""Integer products of rows of 16 bits with weights of 8, for TOKENS tokens at a time.

Pairs along the depth are multiplied and added at once, by an instruction of AVX2 and AVX-512; VNNI
adds to the sums with it. Weights: [num_groups, depth / 2, TOKENS, 2] int8.
"""

from functools import reduce
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tokenreel.kernels.cpu.vector import LANES, call_llvm, element_pointer, splat

TOKENS = 64
PAIR = 2

_FEATURES = binding.get_host_cpu_features()
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SUMS = ir.VectorType(_I32, LANES)
_PAIRS = ir.VectorType(_I16, PAIR * LANES)


def make_dots(num_rows: int, num_vectors: int, num_chains: int, instruction: str) -> Any:
    """For compiled functions: dots(weights, group, shorts, row, out) puts the sums of `num_rows`
    rows with a group of tokens to `out` [num_rows, TOKENS] float32, rounded once.

    shorts [n, depth] int16, from `row`; the depth is a multiple of 2 * num_chains. `num_vectors`
    vectors of tokens are summed at once, each in `num_chains` registers.
    """

    multiply = _MULTIPLIERS[instruction]

    @intrinsic
    def dots(typing, weights, group, shorts, row, out):
        def generate(context, builder, signature, arguments):
            weights_value, group, shorts_value, row, out_value = arguments
            depth = cgutils.unpack_tuple(
                builder, context.make_array(shorts)(context, builder, shorts_value).shape
            )[1]
            place = builder.mul(builder.mul(group, depth), _I64(TOKENS))
            panel = element_pointer(context, builder, weights, weights_value, place)
            first = element_pointer(context, builder, shorts, shorts_value, builder.mul(row, depth))
            rows = [builder.gep(first, [builder.mul(depth, _I64(i))]) for i in range(num_rows)]
            target = element_pointer(context, builder, out, out_value, _I64(0))
            for column in range(0, TOKENS, num_vectors * LANES):
                start = builder.gep(panel, [_I64(column * PAIR)])
                sums = _emit_depth_loop(
                    builder, start, rows, depth, (num_vectors, num_chains), multiply
                )
                for i, row_sums in enumerate(sums):
                    for j, vector in enumerate(row_sums):
                        offset = _I64(i * TOKENS + column + j * LANES)
                        _write(builder, builder.gep(target, [offset]), vector)
            return context.get_dummy_value()

        return types.void(weights, types.intp, shorts, types.intp, out), generate

    return dots


def _emit_depth_loop(
    builder: Any, panel: Any, rows: list[Any], depth: Any, shape: tuple[int, int], multiply: Any
) -> list[list[Any]]:
    """[num_rows][num_vectors] vectors of sums."""
    num_vectors, num_chains = shape
    before, loop = builder.block, builder.append_basic_block("depth")
    after = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(_I64)
    i.add_incoming(_I64(0), before)
    sums = [[_Chains(builder, before, num_chains) for _ in range(num_vectors)] for _ in rows]
    for chain in range(num_chains):
        place = builder.add(i, _I64(chain * PAIR))
        step = builder.gep(panel, [builder.mul(place, _I64(TOKENS))])
        factors = [
            _widen(builder, builder.gep(step, [_I64(j * LANES * PAIR)])) for j in range(num_vectors)
        ]
        for row, row_sums in zip(rows, sums, strict=True):
            pair = builder.load(builder.bitcast(builder.gep(row, [place]), _I32.as_pointer()))
            pair.align = 2
            spread = builder.bitcast(splat(builder, pair, _SUMS), _PAIRS)
            for total, factor in zip(row_sums, factors, strict=True):
                total.add(chain, multiply(builder, spread, factor))
    following = builder.add(i, _I64(num_chains * PAIR))
    i.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return [[total.join() for total in row_sums] for row_sums in sums]


class _Chains:
    """A vector of sums in several registers, which need not wait for one another."""

    def __init__(self, builder: Any, before: Any, count: int) -> None:
        self._builder = builder
        self._phis = [builder.phi(_SUMS) for _ in range(count)]
        for phi in self._phis:
            phi.add_incoming(ir.Constant(_SUMS, [0] * LANES), before)
        self._sums: list[Any] = list(self._phis)

    def add(self, chain: int, products: Any) -> None:
        self._sums[chain] = self._builder.add(self._phis[chain], products)
        self._phis[chain].add_incoming(self._sums[chain], self._builder.block)

    def join(self) -> Any:
        return reduce(self._builder.add, self._sums)


def _widen(builder: Any, pointer: Any) -> Any:
    vector = ir.VectorType(_I8, PAIR * LANES)
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = 1
    return builder.sext(value, _PAIRS)


def _multiply_by_avx512(builder: Any, a: Any, b: Any) -> Any:
    return call_llvm(builder, "llvm.x86.avx512.pmaddw.d.512", _SUMS, [a, b])


def _multiply_by_avx2(builder: Any, a: Any, b: Any) -> Any:
    half = ir.VectorType(_I32, LANES // 2)
    low, high = (
        call_llvm(
            builder,
            "llvm.x86.avx2.pmadd.wd",
            half,
            [_lanes(builder, vector, range(first, first + LANES)) for vector in (a, b)],
        )
        for first in (0, LANES)
    )
    return builder.shuffle_vector(low, high, ir.Constant(_SUMS, list(range(LANES))))


def _multiply_anywhere(builder: Any, a: Any, b: Any) -> Any:
    products = []
    for first in range(PAIR):
        members = range(first, PAIR * LANES, PAIR)
        factors = [builder.sext(_lanes(builder, vector, members), _SUMS) for vector in (a, b)]
        products.append(builder.mul(*factors))
    return builder.add(*products)


def _lanes(builder: Any, vector: Any, numbers: range) -> Any:
    indices = ir.Constant(ir.VectorType(_I32, len(numbers)), list(numbers))
    return builder.shuffle_vector(vector, vector, indices)


def _write(builder: Any, pointer: Any, integers: Any) -> None:
    floats = builder.sitofp(integers, ir.VectorType(ir.FloatType(), LANES))
    builder.store(floats, builder.bitcast(pointer, floats.type.as_pointer())).align = 4


_MULTIPLIERS = {
    "avx512bw": _multiply_by_avx512,
    "avx2": _multiply_by_avx2,
    "any": _multiply_anywhere,
}
INSTRUCTIONS = [name for name in _MULTIPLIERS if name == "any" or _FEATURES.get(name)]
"""Those of this CPU, the best first."""

dots_of_one = make_dots(1, 4, 2, INSTRUCTIONS[0])
dots_of_four = make_dots(4, 2, 1, INSTRUCTIONS[0])
