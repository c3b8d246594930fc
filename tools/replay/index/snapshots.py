"""Snapshots in little room: what changes slowly is kept as what has changed since the one before.

Of a large pool nearly all is prefix cache and order of blocks, of which little changes from one
snapshot to the next. So a kept snapshot has two pieces: the rest of the state, whole, and the
changes to the pool. Together with the changes of those before it, back to one that names the whole
pool, it gives the very bytes that the core gave; a CRC over these makes sure of it.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import compress as selected
from itertools import repeat
from operator import lt, ne
from typing import Any, NamedTuple
from zlib import compress, crc32, decompress
from zlib import error as ZlibError

import msgspec

COMPRESSION_LEVEL = 1
LINK_BYTES = 16
WHOLE_EVERY = 64
POOL_FIELDS = ("free_blocks", "evictable_blocks", "stamps", "cache")


class UnpackFailed(ValueError):
    """These pieces do not give the bytes of a snapshot."""


class _Pool(msgspec.Struct):
    """The part of `actors.core.snapshot.Snapshot` that tells of blocks."""

    free_blocks: list[int]
    evictable_blocks: list[int]
    stamps: list[int]
    cache: list[tuple[int, bytes]]


class PoolChange(msgspec.Struct):
    """`links` is the cache by block (None: not cached any more), `stamps` those that differ. With
    `is_whole`, what was before does not count; `num_blocks` 0: the snapshot is kept as it is."""

    num_blocks: int
    is_whole: bool
    links: dict[int, bytes | None]
    stamps: dict[int, int]

    def then(self, later: "PoolChange") -> "PoolChange":
        """Both, one after the other."""
        if later.is_whole:
            return later
        return PoolChange(
            later.num_blocks,
            self.is_whole,
            {**self.links, **later.links},
            {**self.stamps, **later.stamps},
        )  # of a whole one, None and 0 then stand for what is not there: as if not told


class Kept(NamedTuple):
    """A snapshot in its two pieces. `crc` and `num_bytes` are of the bytes that the core gave."""

    rest: bytes
    change: PoolChange
    crc: int
    num_bytes: int


_pool_decoder = msgspec.msgpack.Decoder(_Pool)
_fields_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.msgpack.Encoder()


class SnapshotKeeper:
    """Takes the snapshots of one core, in their order."""

    def __init__(self, before: Iterable[PoolChange] = ()) -> None:
        """`before` are the changes of those that were kept already."""
        self._links: dict[int, bytes] = {}
        self._stamps: list[int] = []
        for change in before:
            self._links, self._stamps = _apply(change, self._links, self._stamps)

    def keep(self, snapshot: bytes) -> Kept:
        crc, num_bytes = crc32(snapshot), len(snapshot)
        try:
            pool = _pool_decoder.decode(snapshot)
            fields = _fields_decoder.decode(snapshot)
        except msgspec.MsgspecError:
            pool = None
        if pool is None or not _is_regular(pool):
            self._links, self._stamps = {}, []
            plain = PoolChange(0, True, {}, {})
            return Kept(compress(snapshot, COMPRESSION_LEVEL), plain, crc, num_bytes)
        for name in POOL_FIELDS:
            fields[name] = msgspec.Raw(b"\xc0")
        rest = compress(_encoder.encode(fields), COMPRESSION_LEVEL)
        return Kept(rest, self._change_to(pool), crc, num_bytes)

    def _change_to(self, pool: _Pool) -> PoolChange:
        links, stamps = dict(pool.cache), pool.stamps
        is_whole = len(stamps) != len(self._stamps)
        old_links = {} if is_whole else self._links
        old_stamps = [0] * len(stamps) if is_whole else self._stamps
        # Whole pools go through here: `map` and `compress` take no step of the interpreter each.
        changed: dict[int, bytes | None] = dict(
            selected(links.items(), map(ne, map(old_links.get, links), links.values()))
        )
        changed.update(dict.fromkeys(sorted(old_links.keys() - links.keys())))
        changed_stamps = dict(selected(enumerate(stamps), map(ne, old_stamps, stamps)))
        self._links, self._stamps = links, stamps
        return PoolChange(len(stamps), is_whole, changed, changed_stamps)


def arranged(changes: Sequence[PoolChange]) -> list[PoolChange]:
    """The same, with a whole one now and then, so that few are needed to get at any."""
    links: dict[int, bytes] = {}
    stamps: list[int] = []
    told = []
    since_whole = 0
    for change in changes:
        links, stamps = _apply(change, links, stamps)
        since_whole = 0 if change.is_whole else since_whole + 1
        if since_whole == WHOLE_EVERY:
            since_whole = 0
            there = {block: stamp for block, stamp in enumerate(stamps) if stamp}
            change = PoolChange(len(stamps), True, dict(links), there)
        told.append(change)
    return told


def restored(rest: bytes, changes: Sequence[PoolChange], crc: int, num_bytes: int) -> bytes:
    """The snapshot whose pieces are `rest` and the last of `changes`. Raises UnpackFailed."""
    links: dict[int, bytes] = {}
    stamps: list[int] = []
    for change in changes:
        links, stamps = _apply(change, links, stamps)
    try:
        snapshot = decompress(rest)
        if changes[-1].num_blocks:
            fields: dict[str, Any] = _fields_decoder.decode(snapshot)
            fields.update(_pool_fields(links, stamps))
            snapshot = _encoder.encode(fields)
    except (ZlibError, msgspec.MsgspecError) as error:
        raise UnpackFailed(str(error)) from None
    if len(snapshot) != num_bytes or crc32(snapshot) != crc:
        raise UnpackFailed("a snapshot does not come out as it was")
    return snapshot


def pack_change(change: PoolChange) -> bytes:
    links = {block: link for block, link in change.links.items() if link is not None}
    gone = [block for block, link in change.links.items() if link is None]
    parts = (
        change.num_blocks,
        change.is_whole,
        array("i", links).tobytes(),
        b"".join(links.values()),
        array("i", gone).tobytes(),
        array("i", change.stamps).tobytes(),
        array("q", change.stamps.values()).tobytes(),
    )
    return compress(_encoder.encode(parts), COMPRESSION_LEVEL)


def unpack_change(packed: bytes) -> PoolChange:
    """Raises UnpackFailed."""
    try:
        num_blocks, is_whole, *columns = msgspec.msgpack.decode(
            decompress(packed), type=tuple[int, bool, bytes, bytes, bytes, bytes, bytes]
        )
        blocks, joined, gone, stamped, stamps = columns
        starts = range(0, len(joined), LINK_BYTES)
        links: dict[int, bytes | None] = dict(
            zip(array("i", blocks), [joined[at : at + LINK_BYTES] for at in starts], strict=True)
        )
        links.update(dict.fromkeys(array("i", gone)))
        stamp_of = dict(zip(array("i", stamped), array("q", stamps), strict=True))
    except (ZlibError, msgspec.MsgspecError, ValueError) as error:  # columns that do not match
        raise UnpackFailed(str(error)) from None
    return PoolChange(num_blocks, is_whole, links, stamp_of)


def _apply(
    change: PoolChange, links: dict[int, bytes], stamps: list[int]
) -> tuple[dict[int, bytes], list[int]]:
    if change.is_whole:
        links = {block: link for block, link in change.links.items() if link is not None}
        stamps = list(map(change.stamps.get, range(change.num_blocks), repeat(0)))
        return links, stamps
    for block, link in change.links.items():
        if link is None:
            links.pop(block, None)
        else:
            links[block] = link
    for block, stamp in change.stamps.items():
        stamps[block] = stamp
    return links, stamps


def _is_regular(pool: _Pool) -> bool:
    """Whether the orders of blocks follow from stamps and cache, as `_pool_fields` derives them."""
    links, stamps = dict(pool.cache), pool.stamps
    num_unheld = len(pool.free_blocks) + len(pool.evictable_blocks)
    return (
        len(stamps) - stamps.count(0) == num_unheld
        and _is_rising(list(map(stamps.__getitem__, pool.free_blocks)))
        and _is_rising(list(map(stamps.__getitem__, pool.evictable_blocks)))
        and links.keys().isdisjoint(pool.free_blocks)
        and all(map(links.__contains__, pool.evictable_blocks))
        and set(map(len, links.values())) <= {LINK_BYTES}
    )


def _is_rising(numbers: list[int]) -> bool:
    return all(map(lt, numbers, numbers[1:])) and 0 not in numbers[:1]


def _pool_fields(links: dict[int, bytes], stamps: list[int]) -> dict[str, Any]:
    """A block's stamp says since when it is free or evictable, and it is evictable if the cache
    names it."""
    unheld = sorted(selected(range(len(stamps)), stamps), key=stamps.__getitem__)
    cached = sorted(links)
    return {
        "free_blocks": [block for block in unheld if block not in links],
        "evictable_blocks": [block for block in unheld if block in links],
        "stamps": stamps,
        "cache": list(zip(cached, map(links.__getitem__, cached), strict=True)),
    }
