"""Products on Intel's AMX: tiles of 16 rows by 16 columns; bfloat16 is summed in float32, 8 bits in
int32.

The processor computes the rows of a tile independently and adds along the depth in one order, so
a row's result does not depend on the rows beside it. Denormal numbers count as zero.
Source: Intel, Architecture Instruction Set Extensions Programming Reference, chapter on AMX.
"""

import functools

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from tokenreel.kernels.cpu.amx_permission import may_use_tiles
from tokenreel.kernels.cpu.compiler import INLINED
from tokenreel.kernels.cpu.row_blocks import emit_loop
from tokenreel.kernels.cpu.vector import call_llvm, element_pointer, splat

TILE = 16
TILE_BYTES = 1024
"""16 rows of 64 bytes."""
DEPTH = 32
"""bfloat16 numbers in a row of a tile."""
_WIDENED_STEPS = 4

_I8 = ir.IntType(8)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_BYTES = _I8.as_pointer()


@functools.cache
def has_amx() -> bool:
    """Whether this processor has AMX for bfloat16, and the system lets this process use it."""
    features = binding.get_host_cpu_features()
    return bool(features.get("amx-tile") and features.get("amx-bf16")) and may_use_tiles()


def _tile_configuration() -> np.ndarray:
    """Palette 1: eight tiles of 16 rows of 64 bytes."""
    configuration = np.zeros(64, np.uint8)
    configuration[0] = 1
    configuration[16:32].view(np.uint16)[:] = 64
    configuration[48:56] = TILE
    return configuration


TILE_CONFIGURATION = _tile_configuration()


@intrinsic
def begin_tiles(typing, configuration):
    """Makes this thread's tile registers ready; `end_tiles` lets the system forget them. Without
    AMX there is nothing to do."""

    def generate(context, builder, signature, arguments):
        if not has_amx():
            return context.get_dummy_value()
        zero = ir.Constant(_I64, 0)
        pointer = element_pointer(context, builder, configuration, arguments[0], zero)
        call_llvm(builder, "llvm.x86.ldtilecfg", ir.VoidType(), [pointer])
        return context.get_dummy_value()

    return types.void(configuration), generate


@intrinsic
def end_tiles(typing):
    def generate(context, builder, signature, arguments):
        if has_amx():
            call_llvm(builder, "llvm.x86.tilerelease", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


def make_tile_product(instruction: str = "tdpbf16ps"):
    """A compiled product of up to 32 rows with a panel of 32 columns:
    (rows, row offset, number of rows, row stride, weights, weight offset, steps, out).

    16 or 32 rows are computed: they must exist, and the sums of those beyond are read by nobody.

    Rows hold `32 * steps` bfloat16 numbers each. The panel is [steps, 2 tiles, 16 pairs, 16
    columns, 2] bfloat16, a pair being two neighbours along the depth. `out` gets [rows, 32]
    float32.

    A panel of int8 is widened as it is read: [steps, 2 tiles, 16 pairs, 2, 16 columns].

    With tdpbusd rows hold `64 * steps` uint8, the panel int8 in quads, and `out`, whatever its
    type, gets int32.
    """
    one_tile, two_tiles = _make_tiles(1, instruction), _make_tiles(2, instruction)

    @register_jitable(**INLINED)
    def multiply(rows, start, num_rows, stride, weights, begin, steps, out):
        if num_rows > TILE:
            two_tiles(rows, start, stride, weights, begin, steps, out)
        else:
            one_tile(rows, start, stride, weights, begin, steps, out)

    return multiply


def _make_tiles(num_row_tiles, instruction):
    @intrinsic
    def tile_product(typing, rows, row_offset, row_stride, weights, weight_offset, steps, out):
        def generate(context, builder, signature, arguments):
            rows_pointer = element_pointer(context, builder, rows, *arguments[:2])
            weights_pointer = element_pointer(context, builder, weights, *arguments[3:5])
            out_pointer = element_pointer(context, builder, out, arguments[6], _I64(0))
            row_bytes = builder.mul(arguments[2], _I64(rows.dtype.bitwidth // 8))
            is_widened = instruction == "tdpbf16ps" and weights.dtype == types.int8
            read_step = _widened_steps if is_widened else _steps_in_place
            _emit(
                builder,
                instruction,
                num_row_tiles,
                builder.bitcast(rows_pointer, _BYTES),
                row_bytes,
                read_step(builder, builder.bitcast(weights_pointer, _BYTES)),
                arguments[5],
                builder.bitcast(out_pointer, _BYTES),
            )
            return context.get_dummy_value()

        offset = types.intp
        signature = types.void(rows, offset, offset, weights, offset, offset, out)
        return signature, generate

    return tile_product


def _steps_in_place(builder, weights):
    return lambda step: builder.gep(weights, [builder.mul(step, _I64(2 * TILE_BYTES))])


def _widened_steps(builder, weights):
    """Two tiles at a time on the stack, as bfloat16: of whole numbers up to 127 the upper half of
    a float32. Several places, so that the next step does not wait for the tiles' loads."""
    space = cgutils.alloca_once(builder, ir.ArrayType(_I8, _WIDENED_STEPS * 2 * TILE_BYTES))
    space.align = 64
    # Otherwise LLVM asks at every store whether all of them could be spared: ten seconds a kernel.
    opaque = ir.InlineAsm(ir.FunctionType(_BYTES, [_BYTES]), "", "=r,0")
    start = builder.call(opaque, [builder.bitcast(space, _BYTES)])
    bytes_, integers = ir.VectorType(_I8, TILE), ir.VectorType(_I32, TILE)
    floats = ir.VectorType(ir.FloatType(), TILE)

    def widen(pointer):
        narrow = builder.load(builder.bitcast(pointer, bytes_.as_pointer()))
        narrow.align = 1
        return builder.bitcast(builder.sitofp(builder.sext(narrow, integers), floats), integers)

    def read_step(step):
        source = builder.gep(weights, [builder.mul(step, _I64(TILE_BYTES))])
        place = builder.mul(builder.urem(step, _I64(_WIDENED_STEPS)), _I64(2 * TILE_BYTES))
        target = builder.gep(start, [place])
        for row in range(2 * TILE):
            even, odd = (widen(builder.gep(source, [_I64(2 * TILE * row + n)])) for n in (0, TILE))
            pairs = builder.or_(builder.lshr(even, splat(builder, _I32(16), integers)), odd)
            pointer = builder.bitcast(builder.gep(target, [_I64(64 * row)]), integers.as_pointer())
            builder.store(pairs, pointer).align = 64
        return target

    return read_step


def _emit(builder, instruction, num_row_tiles, rows, row_bytes, read_step, steps, out):
    """Registers: sums in 0 to 3 (row tile by column tile), rows in 4 and 5, weights in 6 and 7."""
    void = ir.VoidType()

    def tile(number):
        return ir.Constant(_I8, number)

    def tile_load(number, pointer, stride):
        call_llvm(builder, "llvm.x86.tileloadd64", void, [tile(number), pointer, stride])

    def row_start(pointer, row_tile):
        return builder.gep(pointer, [builder.mul(row_bytes, _I64(row_tile * TILE))])

    def add(step, totals):
        row_position = builder.gep(rows, [builder.mul(step, _I64(64))])
        panel_position = read_step(step)
        for column_tile in range(2):
            pointer = builder.gep(panel_position, [_I64(column_tile * TILE_BYTES)])
            tile_load(6 + column_tile, pointer, _I64(64))
        for row_tile in range(num_row_tiles):
            tile_load(4 + row_tile, row_start(row_position, row_tile), row_bytes)
            for column_tile in range(2):
                operands = [2 * row_tile + column_tile, 4 + row_tile, 6 + column_tile]
                call_llvm(builder, f"llvm.x86.{instruction}", void, [tile(n) for n in operands])
        return totals

    for number in range(2 * num_row_tiles):
        call_llvm(builder, "llvm.x86.tilezero", void, [tile(number)])
    emit_loop(builder, steps, [], add)
    for row_tile in range(num_row_tiles):
        for column_tile in range(2):
            place = builder.gep(out, [_I64(row_tile * TILE * 128 + column_tile * 64)])
            number = tile(2 * row_tile + column_tile)
            call_llvm(builder, "llvm.x86.tilestored64", void, [number, place, _I64(128)])
