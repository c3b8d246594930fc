"""Plans how a CPU attends to a step: which contexts are gathered together, and what masks them.

A plan depends on a step's lengths and block tables alone, so it is made once and serves every
layer. It keeps what is gathered at a time small, whatever the batch: sequences of similar length
share a group as long as the group fits the second-level cache, and one sequence is the least.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from tokenreel.kernels.backend import AttentionMetadata

MAX_GROUP_BYTES = 1 << 20
"""Keys and values of a group that has more than one sequence."""

MAX_QUERY_TILE = 256
"""Tokens of one sequence that share a mask of [tokens, keys]."""

FREE_PADDING_TOKENS = 128
"""Padding that costs no more than one more cohort would."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceGroup:
    """Sequences whose contexts are gathered into one dense batch.

    Either several sequences with one query token each, or one sequence with many.
    """

    tokens: slice
    """The query tokens, counted in the plan's order."""
    num_seqs: int
    one_token_each: bool
    key_len: int
    slots: Tensor
    """[num_seqs * key_len] int32: the slots to gather. Padding repeats a slot of the context."""
    mask: Tensor | None
    """What to add to the scores, broadcast over heads: [num_seqs, 1, 1, key_len] for one token
    each, [num_tokens, key_len] for many. None if nothing is masked, or `is_causal` says it all."""
    is_causal: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    groups: list[SequenceGroup]
    num_grouped_tokens: int
    """Tokens after these, in the plan's order, have no context: their output is zero."""
    order: Tensor | None
    """[num_tokens] int64: the step's tokens in the plan's order; None if that is their own."""
    inverse: Tensor | None


_Decode = tuple[int, int, int, int]
"""A sequence's only token: (num_keys, token, seq, context_len). Its keys end the context."""


class _Tile(NamedTuple):
    """Consecutive query tokens of one sequence, and the range of keys that some of them see.

    The range ends where the last of the query tokens stands.
    """

    seq: int
    first_token: int
    num_tokens: int
    key_start: int
    key_stop: int
    is_causal: bool
    """Whether the mask is the one that PyTorch knows."""

    @property
    def num_keys(self) -> int:
        return self.key_stop - self.key_start


def plan_groups(
    metadata: AttentionMetadata,
    *,
    block_size: int,
    kv_bytes_per_token: int,
    sliding_window: int | None,
    dtype: torch.dtype,
) -> Plan:
    """Cuts a step into groups; masks come in `dtype`, that of the queries."""
    decodes, tiles, padding = _cut(metadata, sliding_window)
    groups: list[SequenceGroup] = []
    order: list[int] = []
    for cohort in _cohorts(decodes):
        cohort.sort(key=itemgetter(1))
        max_num_seqs = max(1, MAX_GROUP_BYTES // (max(cohort)[0] * kv_bytes_per_token))
        groups += _decode_groups(cohort, len(order), max_num_seqs, metadata, block_size, dtype)
        order += [token for _, token, _, _ in cohort]
    masks = _prefill_masks(tiles, sliding_window, dtype)
    for tile in tiles:
        slots = _slots([tile.seq], tile.key_stop, metadata, block_size)[0, tile.key_start :]
        groups.append(
            SequenceGroup(
                tokens=slice(len(order), len(order) + tile.num_tokens),
                num_seqs=1,
                one_token_each=False,
                key_len=tile.num_keys,
                slots=slots[: tile.num_keys],
                mask=None if tile.is_causal else masks[tile.num_tokens][:, -tile.num_keys :],
                is_causal=tile.is_causal,
            )
        )
        order += range(tile.first_token, tile.first_token + tile.num_tokens)
    num_grouped_tokens = len(order)
    order += padding
    if order == list(range(len(order))):
        return Plan(groups, num_grouped_tokens, None, None)
    permutation = torch.tensor(order)
    return Plan(groups, num_grouped_tokens, permutation, permutation.argsort())


def _cut(
    metadata: AttentionMetadata, sliding_window: int | None
) -> tuple[list[_Decode], list[_Tile], list[int]]:
    """The step as sequences with one token, tiles of the others, and tokens without a context."""
    decodes: list[_Decode] = []
    tiles: list[_Tile] = []
    padding: list[int] = []
    bounds = metadata.query_start_loc.tolist()
    for seq, context_len in enumerate(metadata.context_lens.tolist()):
        first, stop = bounds[seq], bounds[seq + 1]
        if context_len == 0:
            padding += range(first, stop)
        elif stop - first == 1:
            num_keys = context_len if sliding_window is None else min(context_len, sliding_window)
            decodes.append((num_keys, first, seq, context_len))
        else:
            tiles += _tiles(seq, first, stop, context_len, sliding_window)
    return decodes, tiles, padding


def _tiles(
    seq: int, first: int, stop: int, context_len: int, sliding_window: int | None
) -> Iterator[_Tile]:
    query_len = stop - first
    if query_len == context_len and (sliding_window is None or sliding_window >= context_len):
        # PyTorch's own causal mask takes no memory and skips what it hides: no reason to cut.
        yield _Tile(seq, first, query_len, 0, context_len, is_causal=True)
        return
    for token in range(first, stop, MAX_QUERY_TILE):
        num_tokens = min(MAX_QUERY_TILE, stop - token)
        key_stop = context_len - (stop - token) + num_tokens
        key_start = 0
        if sliding_window is not None:
            key_start = max(0, key_stop - num_tokens + 1 - sliding_window)
        yield _Tile(seq, token, num_tokens, key_start, key_stop, is_causal=False)


def _cohorts(decodes: list[_Decode]) -> Iterator[list[_Decode]]:
    """Sequences of similar length: padding stays below a fifth of what is gathered."""
    decodes = sorted(decodes, reverse=True)
    start = num_keys = 0
    for index, decode in enumerate(decodes):
        num_keys += decode[0]
        padding = (index + 1 - start) * decodes[start][0] - num_keys
        if padding > FREE_PADDING_TOKENS + num_keys // 4:
            yield decodes[start:index]
            start, num_keys = index, decode[0]
    if decodes:
        yield decodes[start:]


def _decode_groups(
    cohort: list[_Decode],
    first_token: int,
    max_num_seqs: int,
    metadata: AttentionMetadata,
    block_size: int,
    dtype: torch.dtype,
) -> Iterator[SequenceGroup]:
    """Cuts a cohort into groups; `first_token` is its place in the plan's order."""
    num_keys, _, seqs, context_lens = zip(*cohort, strict=True)
    num_seqs, key_len = len(cohort), max(num_keys)
    slots, masks = _slots(list(seqs), max(context_lens), metadata, block_size), None
    if context_lens != num_keys:
        starts = torch.tensor(context_lens) - torch.tensor(num_keys)
        positions = starts.unsqueeze(1) + torch.arange(key_len)
        slots = slots.gather(1, positions.clamp_max_(slots.shape[1] - 1))
    slots = slots[:, :key_len]
    if min(num_keys) < key_len:
        stops = torch.tensor(num_keys, dtype=torch.int32).unsqueeze(1)
        hidden = torch.arange(key_len, dtype=torch.int32) >= stops
        masks = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
        masks = masks.view(num_seqs, 1, 1, key_len)
        # A slot beyond the context may hold anything, a NaN too, which no mask would hide.
        slots = torch.where(hidden, slots[:, :1], slots)
    for start in range(0, num_seqs, max_num_seqs):
        stop = min(start + max_num_seqs, num_seqs)
        yield SequenceGroup(
            tokens=slice(first_token + start, first_token + stop),
            num_seqs=stop - start,
            one_token_each=True,
            key_len=key_len,
            slots=slots[start:stop].flatten(),
            mask=None if masks is None else masks[start:stop],
            is_causal=False,
        )


def _prefill_masks(
    tiles: list[_Tile], sliding_window: int | None, dtype: torch.dtype
) -> dict[int, Tensor]:
    """One mask for all tiles with as many tokens, by their number, as wide as the widest.

    A mask only depends on how far a key is from a query, and all ranges end at the last query: a
    narrower tile takes the last columns.
    """
    widths: dict[int, int] = {}
    for tile in tiles:
        if not tile.is_causal:
            widths[tile.num_tokens] = max(widths.get(tile.num_tokens, 0), tile.num_keys)
    masks = {}
    for num_tokens, width in widths.items():
        # Key j stands where query i does if j - i is this.
        diagonal = width - num_tokens
        mask = torch.full((num_tokens, width), float("-inf"), dtype=dtype).triu_(diagonal + 1)
        if sliding_window is not None:
            mask += torch.full_like(mask, float("-inf")).tril_(diagonal - sliding_window)
        masks[num_tokens] = mask
    return masks


def _slots(seqs: list[int], max_len: int, metadata: AttentionMetadata, block_size: int) -> Tensor:
    """Where the positions of each context lie, [num_seqs, at least max_len] int32.

    What follows a context is meaningless.
    """
    tables = metadata.block_tables[:, : -(-max_len // block_size)]
    if seqs != list(range(len(tables))):
        tables = tables.index_select(0, torch.tensor(seqs))
    slots = (tables * block_size).unsqueeze(-1) + torch.arange(block_size, dtype=torch.int32)
    return slots.flatten(1)
