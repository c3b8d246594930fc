"""A whole forward step as one compiled function, which every thread of a team runs.

Between barriers the threads take items of one kind: tokens to normalize, panels of a weight to
multiply, heads to attend. Nothing here allocates or calls Python, and no sum depends on how many
rows there are, so a token's hidden state has the same bits in every batch.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenreel.kernels.cpu.amx import begin_tiles, end_tiles
from tokenreel.kernels.cpu.attention import attention_item, attention_merge
from tokenreel.kernels.cpu.attention_plan import plan_attention
from tokenreel.kernels.cpu.compiler import compiled, part
from tokenreel.kernels.cpu.factors import factors, make_factor
from tokenreel.kernels.cpu.finish import AddTo, Keep, SiluAndMultiply, finish
from tokenreel.kernels.cpu.norm import rms_norm
from tokenreel.kernels.cpu.product import ROWS, panels_at_once, sums_of_panels
from tokenreel.kernels.cpu.rotary import rotate_and_store
from tokenreel.kernels.cpu.row_blocks import PANEL
from tokenreel.kernels.cpu.team import barrier, next_item
from tokenreel.kernels.cpu.vector import LANES, load, store

Array = NDArray[Any]

PHASES_PER_LAYER = 11
TOKENS_PER_ITEM = 4
"""Of norms and rotations."""
MAX_ROWS_PER_ITEM = 256
"""So many rows of a product stay in the second-level cache while the panels pass."""
DEPTH_PER_ITEM = 1024
"""Panels of less depth are taken several at a time."""


class Shape(NamedTuple):
    """Numbers of a model. A row's stride is its size, padded with zeros."""

    num_layers: int
    hidden_size: int
    hidden_stride: int
    qkv_stride: int
    attended_stride: int
    inner_stride: int
    eps: float


class Weights(NamedTuple):
    """Of all layers, [num_layers, ...]; products as `pack` leaves them, the rest float32 and
    padded. An empty array stands for what the model does not have."""

    attention_gain: Array
    qkv: Array
    qkv_bias: Array
    query_gain: Array
    key_gain: Array
    output: Array
    output_bias: Array
    mlp_gain: Array
    gate_up: Array
    """Panels of 16 columns of the gate and the same 16 of up."""
    gate_up_bias: Array
    down: Array
    down_bias: Array
    attention_kinds: Array
    """[num_layers] int64: which of the model's kinds of attention a layer has."""


class Pages(NamedTuple):
    """Keys and values of all layers, in the layout of `attention`: [num_layers, ...]."""

    keys: Array
    values: Array


class Inputs(NamedTuple):
    """A step of `num_seqs` sequences, whose tokens lie one behind the other. int32, unless said."""

    token_ids: Array
    """[num_tokens]"""
    positions: Array
    """[num_tokens]"""
    slot_mapping: Array
    """[num_tokens] int64: block * block_size + offset."""
    query_start_loc: Array
    """[num_seqs + 1]"""
    context_lens: Array
    """[num_seqs]: tokens in the cache after this step."""
    block_tables: Array
    """[num_seqs, max_blocks]"""
    wanted: Array
    """[num_wanted] int64, ascending: tokens whose hidden states are asked for."""


class Scratch(NamedTuple):
    """Rows between the operations, for as many tokens as a step may have and 31 more."""

    hidden: Array
    """Flat [tokens, hidden_stride] float32: the residual stream."""
    rows: Array
    """Flat: normalized rows, as the next product multiplies them: float32 or bfloat16."""
    attended: Array
    inner: Array
    """Like rows: between the products of the MLP. Padding is zero in all three: a weight of zero
    would not hide what is not a number."""
    factors: Array | None
    """Flat uint8: one of the three made rows of 8 bits, for its product; None: as they are."""
    qkv: Array
    sums: Array
    """[num_threads, 1024] float32."""
    attention: Array
    """[num_threads, attention_scratch_size] float32."""
    tiles: Array
    """AMX's configuration."""


@part
def embed(meeting, phase, token_ids, embedding, shape, scratch):
    stride = shape.hidden_stride
    while True:
        token = next_item(meeting, phase)
        if token >= len(token_ids):
            break
        for i in range(0, stride, LANES):
            row = load(embedding, np.intp(token_ids[token]) * stride + i)
            store(scratch.hidden, token * stride + i, row)
    barrier(meeting)


@part
def normalize(meeting, phase, hidden, num_tokens, gain, shape, scratch):
    """hidden -> rows"""
    stride = shape.hidden_stride
    num_items = (num_tokens + TOKENS_PER_ITEM - 1) // TOKENS_PER_ITEM
    while True:
        item = next_item(meeting, phase)
        if item >= num_items:
            break
        begin = item * TOKENS_PER_ITEM
        for token in range(begin, min(begin + TOKENS_PER_ITEM, num_tokens)):
            place = token * stride
            rms_norm(hidden, place, shape.hidden_size, gain, 0, shape.eps, scratch.rows, place)
            make_factor(scratch.rows, stride, token, scratch.factors)
    barrier(meeting)


@part
def make_factors(meeting, phase, rows, stride, num_rows, scratch):
    if scratch.factors is None:
        return
    while True:
        row = next_item(meeting, phase)
        if row >= num_rows:
            break
        make_factor(rows, stride, row, scratch.factors)
    barrier(meeting)


@part
def multiply(rank, meeting, phase, rows, stride, num_rows, weights, target, scratch):
    """rows x weights, handed to `target` panel by panel."""
    rows, stride = factors(rows, stride, scratch.factors)
    multiply_factors(rank, meeting, phase, rows, stride, num_rows, weights, target, scratch)


@part
def multiply_factors(rank, meeting, phase, rows, stride, num_rows, weights, target, scratch):
    """`multiply`, of rows in the format that the weights want."""
    num_panels = weights.shape[0]
    at_once = panels_at_once(rows, num_rows, weights)
    panels_per_item = max(at_once, DEPTH_PER_ITEM // stride)
    items_across = (num_panels + panels_per_item - 1) // panels_per_item
    num_items = items_across * ((num_rows + MAX_ROWS_PER_ITEM - 1) // MAX_ROWS_PER_ITEM)
    place = scratch.sums[rank]
    while True:
        item = next_item(meeting, phase)
        if item >= num_items:
            break
        first_row = item // items_across * MAX_ROWS_PER_ITEM
        first_panel = item % items_across * panels_per_item
        last_row = min(first_row + MAX_ROWS_PER_ITEM, num_rows)
        last_panel = min(first_panel + panels_per_item, num_panels)
        for panel in range(first_panel, last_panel, at_once):
            width = min(at_once, last_panel - panel)
            for row in range(first_row, last_row, ROWS):
                count = min(ROWS, last_row - row)
                sums_of_panels(rows, row, count, stride, weights, panel, width, place)
                for i in range(width):
                    finish(target, place[i * PANEL :], row, count, panel + i)
    barrier(meeting)


@compiled
def forward(
    rank, meeting, shape, weights, embedding, rotations, kinds, plans, pages, inputs, scratch
):
    """Embeds the tokens and takes them through all layers; `scratch.hidden` begins with the rows
    that are wanted.

    embedding: [vocab_size, hidden_stride]. rotations: cosines and sines of `rotate_and_store`.
    kinds, plans: an `AttentionShape` and the step's `AttentionPlan` for each kind of attention.
    """
    begin_tiles(scratch.tiles)
    num_tokens = len(inputs.token_ids)
    if rank == 0:
        for i in range(len(kinds)):
            context_lens = inputs.context_lens
            plan_attention(
                kinds[i],
                inputs.query_start_loc,
                context_lens,
                len(context_lens),
                meeting.num_threads,
                plans[i],
            )
    embed(meeting, 0, inputs.token_ids, embedding, shape, scratch)
    for layer in range(shape.num_layers):
        phase = 1 + layer * PHASES_PER_LAYER
        kind = weights.attention_kinds[layer]
        keys, values = pages.keys[layer], pages.values[layer]
        gain = weights.attention_gain[layer]
        normalize(meeting, phase, scratch.hidden, num_tokens, gain, shape, scratch)
        rows, stride = scratch.rows, shape.hidden_stride
        target = Keep(weights.qkv_bias[layer], scratch.qkv, shape.qkv_stride)
        qkv, output = weights.qkv[layer], weights.output[layer]
        multiply(rank, meeting, phase + 1, rows, stride, num_tokens, qkv, target, scratch)
        gains = weights.query_gain[layer], weights.key_gain[layer]
        rotate(
            meeting, phase + 2, shape, kinds[kind], rotations, gains, keys, values, inputs, scratch
        )
        plan = plans[kind]
        attend(rank, meeting, phase + 3, shape, kinds[kind], plan, keys, values, inputs, scratch)
        num_rows = num_tokens
        if layer == shape.num_layers - 1:
            num_rows = keep_wanted(rank, meeting, inputs.wanted, num_tokens, shape, scratch)
        rows, stride = scratch.attended, shape.attended_stride
        residual = AddTo(weights.output_bias[layer], scratch.hidden, shape.hidden_stride)
        make_factors(meeting, phase + 5, rows, stride, num_rows, scratch)
        multiply(rank, meeting, phase + 6, rows, stride, num_rows, output, residual, scratch)
        transform(rank, meeting, phase + 7, num_rows, layer, shape, weights, scratch)
    end_tiles()


@part
def rotate(meeting, phase, shape, kind, rotations, gains, keys, values, inputs, scratch):
    """Positions into queries and keys, keys and values into the cache."""
    num_tokens = len(inputs.token_ids)
    num_items = (num_tokens + TOKENS_PER_ITEM - 1) // TOKENS_PER_ITEM
    while True:
        item = next_item(meeting, phase)
        if item >= num_items:
            break
        begin = item * TOKENS_PER_ITEM
        rotate_and_store(
            begin,
            min(begin + TOKENS_PER_ITEM, num_tokens),
            kind,
            inputs.positions,
            inputs.slot_mapping,
            rotations[0],
            rotations[1],
            gains[0],
            gains[1],
            shape.eps,
            scratch.qkv,
            keys,
            values,
        )
    barrier(meeting)


@part
def attend(rank, meeting, phase, shape, kind, plan, keys, values, inputs, scratch):
    """qkv and cache -> attended"""
    attended, stride = scratch.attended, shape.attended_stride
    while True:
        item = next_item(meeting, phase)
        if item >= plan.counts[0]:
            break
        attention_item(
            item,
            kind,
            plan,
            inputs.query_start_loc,
            inputs.context_lens,
            inputs.block_tables,
            scratch.qkv,
            keys,
            values,
            attended,
            stride,
            scratch.attention[rank],
        )
    barrier(meeting)
    if plan.counts[1] == 0:
        return
    while True:
        merge = next_item(meeting, phase + 1)
        if merge >= plan.counts[1]:
            break
        attention_merge(merge, kind, plan, inputs.query_start_loc, attended, stride)
    barrier(meeting)


@part
def keep_wanted(rank, meeting, wanted, num_tokens, shape, scratch):
    """-> how many rows are left, at the beginning. Behind the last attention no row needs another:
    of a prompt all but the last are done when their keys and values are stored."""
    if len(wanted) < num_tokens:
        if rank == 0:
            for row in range(len(wanted)):
                move_row(scratch.hidden, shape.hidden_stride, wanted[row], row)
                move_row(scratch.attended, shape.attended_stride, wanted[row], row)
        barrier(meeting)
    return len(wanted)


@part
def move_row(rows, stride, source, target):
    for i in range(stride):
        rows[target * stride + i] = rows[source * stride + i]


@part
def transform(rank, meeting, phase, num_rows, layer, shape, weights, scratch):
    """The layer's MLP."""
    gain = weights.mlp_gain[layer]
    normalize(meeting, phase, scratch.hidden, num_rows, gain, shape, scratch)
    rows, stride = scratch.rows, shape.hidden_stride
    gate_up, down = weights.gate_up[layer], weights.down[layer]
    target = SiluAndMultiply(weights.gate_up_bias[layer], scratch.inner, shape.inner_stride)
    multiply(rank, meeting, phase + 1, rows, stride, num_rows, gate_up, target, scratch)
    rows, stride = scratch.inner, shape.inner_stride
    residual = AddTo(weights.down_bias[layer], scratch.hidden, shape.hidden_stride)
    make_factors(meeting, phase + 2, rows, stride, num_rows, scratch)
    multiply(rank, meeting, phase + 3, rows, stride, num_rows, down, residual, scratch)
