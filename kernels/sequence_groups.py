"""Plans how a CPU attends to a step: which contexts are gathered together, and what masks them.

A plan depends on a step's lengths and block tables, so it is made once and used by every layer. It
keeps what is gathered at a time small, whatever the batch: sequences of similar length share a
group until the group is as large as the second-level cache, and one sequence is the least.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreel.kernels.backend import AttentionMetadata

MAX_GROUP_BYTES = 1 << 20
"""Keys, values and masks of a group with more than one sequence."""

MAX_QUERY_TILE = 256
"""Tokens of one sequence that share a mask of [tokens, keys]."""

FREE_PADDING_TOKENS = 128
"""Padding that costs no more than one more group would."""


@dataclass(frozen=True, eq=False)
class SequenceGroup:
    """Sequences with queries of one length whose contexts are gathered into a dense batch.

    With `query_len` above 1 there is one sequence.
    """

    tokens: Tensor | slice
    """The query tokens: an int64 tensor of indices, or a range."""
    num_seqs: int
    query_len: int
    key_len: int
    slots: Tensor
    """[num_seqs * key_len] int64: the slots to gather, with written ones repeated as padding."""
    mask: Tensor | None
    """To add to the scores, broadcast over heads: [num_seqs, 1, 1, key_len] for one token,
    [query_len, key_len] for many. None: nothing to mask, or `is_causal`."""
    is_causal: bool


@dataclass(frozen=True)
class Plan:
    groups: list[SequenceGroup]
    padding: list[slice]
    """Tokens of sequences without a context, whose output is zero."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """Consecutive query tokens of one sequence and the keys that some of them see."""

    seq: int
    first_token: int
    num_tokens: int
    key_start: int
    key_stop: int
    """One more than the last query token's position, too."""

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
    """The step's plan, made at the first call and kept in `metadata.derived`."""
    cache_key = ("groups", block_size, kv_bytes_per_token, sliding_window, dtype)
    plan: Plan | None = metadata.derived.get(cache_key)
    if plan is None:
        singles, tiles, padding = _cut(metadata, sliding_window)
        groups = [
            _decode_group(members, metadata, block_size, dtype)
            for members in _partition(singles, kv_bytes_per_token)
        ]
        groups += [
            _prefill_group(tile, metadata, block_size, sliding_window, dtype) for tile in tiles
        ]
        plan = metadata.derived[cache_key] = Plan(groups, padding)
    return plan


def _cut(
    metadata: AttentionMetadata, sliding_window: int | None
) -> tuple[list[_Tile], list[_Tile], list[slice]]:
    """The step as tiles of one token, tiles of several, and ranges of padding tokens."""
    starts = metadata.query_start_loc.tolist()
    singles: list[_Tile] = []
    tiles: list[_Tile] = []
    padding: list[slice] = []
    for seq, context_len in enumerate(metadata.context_lens.tolist()):
        first, stop = starts[seq], starts[seq + 1]
        query_len = stop - first
        if query_len == 0:
            continue
        if context_len == 0:
            padding.append(slice(first, stop))
            continue
        whole_prompt = query_len == context_len
        unwindowed = sliding_window is None or sliding_window >= context_len
        # PyTorch's own causal mask needs no memory and skips what it hides: no reason to cut.
        tile_len = query_len if whole_prompt and unwindowed else MAX_QUERY_TILE
        for token in range(first, stop, tile_len):
            num_tokens = min(tile_len, stop - token)
            key_stop = context_len - (stop - token) + num_tokens
            key_start = 0
            if sliding_window is not None:
                key_start = max(0, key_stop - num_tokens + 1 - sliding_window)
            tile = _Tile(seq, token, num_tokens, key_start, key_stop)
            (singles if num_tokens == 1 else tiles).append(tile)
    return singles, tiles, padding


def _partition(singles: list[_Tile], kv_bytes_per_token: int) -> list[list[_Tile]]:
    """Splits tiles of one token into groups of bounded size with little padding."""
    groups: list[list[_Tile]] = []
    longest = num_keys = 0
    for tile in sorted(singles, key=_num_keys, reverse=True):
        size = len(groups[-1]) + 1 if groups else 0
        padding = size * longest - num_keys - tile.num_keys
        if (
            not groups
            or size * longest * kv_bytes_per_token > MAX_GROUP_BYTES
            or padding > FREE_PADDING_TOKENS + num_keys // 4
        ):
            groups.append([])
            longest, num_keys = tile.num_keys, 0
        groups[-1].append(tile)
        num_keys += tile.num_keys
    return groups


def _num_keys(tile: _Tile) -> int:
    return tile.num_keys


def _decode_group(
    tiles: list[_Tile], metadata: AttentionMetadata, block_size: int, dtype: torch.dtype
) -> SequenceGroup:
    key_len = tiles[0].num_keys
    same_length = tiles[-1].num_keys == key_len
    positions = torch.arange(key_len).unsqueeze(0)
    mask = None
    if not same_length:
        num_keys = torch.tensor([[tile.num_keys] for tile in tiles])
        hidden = positions >= num_keys
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
        mask = mask.view(len(tiles), 1, 1, key_len)
        # A slot beyond the context may hold anything, a NaN too, which no mask would hide.
        positions = positions.minimum(num_keys - 1)
    if any(tile.key_start for tile in tiles):
        positions = positions + torch.tensor([[tile.key_start] for tile in tiles])
    return SequenceGroup(
        tokens=_as_range([tile.first_token for tile in tiles]),
        num_seqs=len(tiles),
        query_len=1,
        key_len=key_len,
        slots=_slots([tile.seq for tile in tiles], positions, metadata, block_size),
        mask=mask,
        is_causal=False,
    )


def _as_range(tokens: list[int]) -> Tensor | slice:
    first, stop = tokens[0], tokens[0] + len(tokens)
    if tokens == list(range(first, stop)):
        return slice(first, stop)
    return torch.tensor(tokens)


def _prefill_group(
    tile: _Tile,
    metadata: AttentionMetadata,
    block_size: int,
    sliding_window: int | None,
    dtype: torch.dtype,
) -> SequenceGroup:
    keys = torch.arange(tile.key_start, tile.key_stop)
    unwindowed = sliding_window is None or sliding_window >= tile.num_tokens
    is_causal = tile.num_tokens == tile.num_keys and unwindowed
    mask = None
    if not is_causal:
        queries = torch.arange(tile.key_stop - tile.num_tokens, tile.key_stop).unsqueeze(1)
        hidden = keys > queries
        if sliding_window is not None:
            hidden |= keys <= queries - sliding_window
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
    return SequenceGroup(
        tokens=slice(tile.first_token, tile.first_token + tile.num_tokens),
        num_seqs=1,
        query_len=tile.num_tokens,
        key_len=tile.num_keys,
        slots=_slots([tile.seq], keys.unsqueeze(0), metadata, block_size),
        mask=mask,
        is_causal=is_causal,
    )


def _slots(
    seqs: list[int], positions: Tensor, metadata: AttentionMetadata, block_size: int
) -> Tensor:
    """Where the given positions of each sequence's context lie in the caches.

    positions [num_seqs or 1, key_len]; returns [num_seqs * key_len].
    """
    tables = metadata.block_tables[seqs]
    positions = positions.expand(len(seqs), -1)
    blocks: Tensor = tables.gather(1, positions // block_size).to(torch.int64)
    return (blocks * block_size + positions % block_size).flatten()
