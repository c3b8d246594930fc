"""Plans how a CPU attends to a step: which contexts are gathered together, and what masks them.

A plan depends on a step's lengths and block tables alone, so it is made once and serves every
layer. It keeps what is gathered at a time small, whatever the batch: sequences of similar length
share a group as long as the group fits the second-level cache, and one sequence is the least.
"""

from dataclasses import dataclass
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


class _Tile(NamedTuple):
    """Consecutive query tokens of one sequence, and the range of keys that some of them see.

    The range ends where the last of the query tokens stands.
    """

    seq: int
    first_token: int
    num_tokens: int
    key_start: int
    num_keys: int


def plan_groups(
    metadata: AttentionMetadata,
    *,
    block_size: int,
    kv_bytes_per_token: int,
    sliding_window: int | None,
    dtype: torch.dtype,
) -> Plan:
    """Cuts a step into groups; masks come in `dtype`, that of the queries."""
    singles, tiles, padding = _cut(metadata, sliding_window)
    groups: list[SequenceGroup] = []
    order: list[int] = []
    for cohort in _cohorts(singles):
        cohort.sort(key=lambda tile: tile.first_token)
        groups += _decode_groups(
            cohort, len(order), metadata, block_size, kv_bytes_per_token, dtype
        )
        order += [tile.first_token for tile in cohort]
    for tile in tiles:
        groups.append(_prefill_group(tile, len(order), metadata, block_size, sliding_window, dtype))
        order += range(tile.first_token, tile.first_token + tile.num_tokens)
    num_grouped_tokens = len(order)
    order += padding
    if order == list(range(len(order))):
        return Plan(groups, num_grouped_tokens, None, None)
    permutation = torch.tensor(order)
    return Plan(groups, num_grouped_tokens, permutation, permutation.argsort())


def _cut(
    metadata: AttentionMetadata, sliding_window: int | None
) -> tuple[list[_Tile], list[_Tile], list[int]]:
    """The step as tiles of one token, tiles of several, and tokens without a context."""
    starts = metadata.query_start_loc.tolist()
    singles: list[_Tile] = []
    tiles: list[_Tile] = []
    padding: list[int] = []
    for seq, context_len in enumerate(metadata.context_lens.tolist()):
        first, stop = starts[seq], starts[seq + 1]
        if context_len == 0:
            padding += range(first, stop)
            continue
        query_len = stop - first
        if query_len == 1:
            num_keys = min(context_len, sliding_window or context_len)
            singles.append(_Tile(seq, first, 1, context_len - num_keys, num_keys))
            continue
        tile_len = MAX_QUERY_TILE
        if query_len == context_len and (sliding_window is None or sliding_window >= context_len):
            # PyTorch's own causal mask takes no memory and skips what it hides: never cut.
            tile_len = query_len
        for token in range(first, stop, tile_len):
            num_tokens = min(tile_len, stop - token)
            key_stop = context_len - (stop - token) + num_tokens
            num_keys = key_stop
            if sliding_window is not None:
                num_keys = min(key_stop, num_tokens - 1 + sliding_window)
            tiles.append(_Tile(seq, token, num_tokens, key_stop - num_keys, num_keys))
    return singles, tiles, padding


def _cohorts(singles: list[_Tile]) -> list[list[_Tile]]:
    """Sorts tiles of one token into lists of similar length, so that padding stays below a fifth
    of what is gathered."""
    cohorts: list[list[_Tile]] = []
    longest = num_keys = 0
    for tile in sorted(singles, key=lambda tile: tile.num_keys, reverse=True):
        size = len(cohorts[-1]) + 1 if cohorts else 0
        num_keys += tile.num_keys
        if not cohorts or size * longest - num_keys > FREE_PADDING_TOKENS + num_keys // 4:
            cohorts.append([])
            longest = num_keys = tile.num_keys
        cohorts[-1].append(tile)
    return cohorts


def _decode_groups(
    cohort: list[_Tile],
    first_token: int,
    metadata: AttentionMetadata,
    block_size: int,
    kv_bytes_per_token: int,
    dtype: torch.dtype,
) -> list[SequenceGroup]:
    """Cuts a cohort into groups that fit the cache; `first_token` is its place in the order."""
    num_seqs, key_len = len(cohort), max(tile.num_keys for tile in cohort)
    slots, masks = _slots(cohort, metadata, block_size), None
    if min(tile.num_keys for tile in cohort) < key_len:
        num_keys = torch.tensor([[tile.num_keys] for tile in cohort], dtype=torch.int32)
        hidden = torch.arange(key_len, dtype=torch.int32) >= num_keys
        masks = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
        masks = masks.view(num_seqs, 1, 1, key_len)
        # A slot beyond the context may hold anything, a NaN too, which no mask would hide.
        slots = slots.where(~hidden, slots[:, :1])
    size = max(1, MAX_GROUP_BYTES // (key_len * kv_bytes_per_token))
    groups = []
    for start in range(0, num_seqs, size):
        stop = min(start + size, num_seqs)
        groups.append(
            SequenceGroup(
                tokens=slice(first_token + start, first_token + stop),
                num_seqs=stop - start,
                one_token_each=True,
                key_len=key_len,
                slots=slots[start:stop].flatten(),
                mask=None if masks is None else masks[start:stop],
                is_causal=False,
            )
        )
    return groups


def _prefill_group(
    tile: _Tile,
    first_token: int,
    metadata: AttentionMetadata,
    block_size: int,
    sliding_window: int | None,
    dtype: torch.dtype,
) -> SequenceGroup:
    num_tokens, num_keys = tile.num_tokens, tile.num_keys
    unwindowed = sliding_window is None or sliding_window >= num_tokens
    is_causal = num_tokens == num_keys and unwindowed
    mask = None
    if not is_causal:
        # Key j stands where query i does if j - i is this.
        diagonal = num_keys - num_tokens
        mask = torch.full((num_tokens, num_keys), float("-inf"), dtype=dtype).triu_(diagonal + 1)
        if sliding_window is not None:
            mask += torch.full_like(mask, float("-inf")).tril_(diagonal - sliding_window)
    return SequenceGroup(
        tokens=slice(first_token, first_token + num_tokens),
        num_seqs=1,
        one_token_each=False,
        key_len=num_keys,
        slots=_slots([tile], metadata, block_size)[0],
        mask=mask,
        is_causal=is_causal,
    )


def _slots(tiles: list[_Tile], metadata: AttentionMetadata, block_size: int) -> Tensor:
    """Where the keys of each tile lie, [num_tiles, the most keys] int32.

    What follows a tile's last key is meaningless.
    """
    key_len = max(tile.num_keys for tile in tiles)
    num_blocks = -(-max(tile.key_start + tile.num_keys for tile in tiles) // block_size)
    seqs = torch.tensor([tile.seq for tile in tiles])
    tables = metadata.block_tables[:, :num_blocks].index_select(0, seqs)
    slots = (tables * block_size).unsqueeze(-1) + torch.arange(block_size, dtype=torch.int32)
    slots = slots.flatten(1)
    if any(tile.key_start for tile in tiles):
        starts = torch.tensor([[tile.key_start] for tile in tiles])
        positions = (starts + torch.arange(key_len)).clamp_max_(slots.shape[1] - 1)
        return slots.gather(1, positions)
    return slots[:, :key_len]
