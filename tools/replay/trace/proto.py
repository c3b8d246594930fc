"""Writes a trace in Perfetto's own format, packet by packet: tracks, slices, counters, flows.

The format is protobuf (perfetto/trace/trace.proto, TrackEvent); the few fields that are needed are
encoded here. JSON, which Perfetto reads too, is its legacy format: no units, no nested tracks.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from struct import pack
from typing import NewType

Uuid = NewType("Uuid", int)
"""Of a track."""
Arguments = Mapping[str, int | str]

ROOT = Uuid(0)
MAX_RANK = (1 << 31) - 1

# Fields, by message. (Number and wire type; 0 is a varint, 1 is fixed64, 2 has a length.)
_TRACE_PACKET = 1
_PACKET_CLOCK_SNAPSHOT, _PACKET_TIMESTAMP, _PACKET_SEQUENCE_ID = 6, 8, 10
_PACKET_TRACK_EVENT, _PACKET_TRACK_DESCRIPTOR = 11, 60
_TRACK_UUID, _TRACK_NAME, _TRACK_PARENT, _TRACK_COUNTER = 1, 2, 5, 8
_TRACK_CHILD_ORDERING, _TRACK_RANK = 11, 12
_COUNTER_UNIT_NAME = 6
_EVENT_ANNOTATION, _EVENT_TYPE, _EVENT_TRACK, _EVENT_NAME = 4, 9, 11, 23
_EVENT_COUNTER_VALUE, _EVENT_FLOW, _EVENT_TERMINATING_FLOW = 30, 47, 48
_ANNOTATION_INT, _ANNOTATION_STRING, _ANNOTATION_NAME = 4, 6, 10
_SNAPSHOT_CLOCK, _CLOCK_ID, _CLOCK_TIMESTAMP = 1, 1, 2

_REALTIME, _MONOTONIC, _BOOTTIME = 1, 3, 6
"""Clocks. Perfetto takes a packet's timestamp for one of BOOTTIME."""
_EXPLICIT_ORDER = 3


class _EventType(IntEnum):
    SLICE_BEGIN = 1
    SLICE_END = 2
    INSTANT = 3
    COUNTER = 4


class TraceWriter:
    """Times are nanoseconds on the clock that `clocks` tells. On each track slices nest."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._last_uuid = 0

    def clocks(self, monotonic_ns: int, wall_ns: int) -> None:
        """One instant on both clocks, so that times of day can be shown."""
        readings = ((_BOOTTIME, monotonic_ns), (_MONOTONIC, monotonic_ns), (_REALTIME, wall_ns))
        self._packet(
            _PACKET_CLOCK_SNAPSHOT,
            b"".join(
                _bytes(_SNAPSHOT_CLOCK, _int(_CLOCK_ID, clock) + _int(_CLOCK_TIMESTAMP, t_ns))
                for clock, t_ns in readings
            ),
            monotonic_ns,
        )

    def track(self, name: str, parent: Uuid = ROOT, rank: int = 0) -> Uuid:
        """A track, or a group of those that name it as `parent`, in the order of their ranks."""
        return self._track(name, parent, rank, _int(_TRACK_CHILD_ORDERING, _EXPLICIT_ORDER))

    def counter(self, name: str, unit: str, parent: Uuid, rank: int = 0) -> Uuid:
        unit_name = _text(_COUNTER_UNIT_NAME, unit)
        return self._track(name, parent, rank, _bytes(_TRACK_COUNTER, unit_name))

    def begin(
        self,
        track: Uuid,
        t_ns: int,
        name: str,
        arguments: Arguments | None = None,
        flows: Iterable[int] = (),
    ) -> None:
        """`flows` are ids; each leads from one event that names it to the next."""
        self._event(_EventType.SLICE_BEGIN, track, t_ns, name, arguments, _flows(flows))

    def end(self, track: Uuid, t_ns: int, arguments: Arguments | None = None) -> None:
        """Ends the innermost slice that is open; its arguments join those of the begin."""
        self._event(_EventType.SLICE_END, track, t_ns, "", arguments)

    def instant(
        self,
        track: Uuid,
        t_ns: int,
        name: str,
        arguments: Arguments | None = None,
        flows: Iterable[int] = (),
        last_of_flow: int | None = None,
    ) -> None:
        rest = _flows(flows)
        if last_of_flow is not None:
            rest += _fixed64(_EVENT_TERMINATING_FLOW, last_of_flow)
        self._event(_EventType.INSTANT, track, t_ns, name, arguments, rest)

    def count(self, track: Uuid, t_ns: int, value: int) -> None:
        rest = _int(_EVENT_COUNTER_VALUE, value)
        self._event(_EventType.COUNTER, track, t_ns, "", None, rest)

    def _track(self, name: str, parent: Uuid, rank: int, rest: bytes) -> Uuid:
        self._last_uuid += 1
        uuid = Uuid(self._last_uuid)
        descriptor = _int(_TRACK_UUID, uuid) + _text(_TRACK_NAME, name)
        if parent != ROOT:
            descriptor += _int(_TRACK_PARENT, parent)
        self._packet(
            _PACKET_TRACK_DESCRIPTOR, descriptor + rest + _int(_TRACK_RANK, min(rank, MAX_RANK))
        )
        return uuid

    def _event(
        self,
        event_type: _EventType,
        track: Uuid,
        t_ns: int,
        name: str,
        arguments: Arguments | None,
        rest: bytes = b"",
    ) -> None:
        event = _int(_EVENT_TYPE, event_type) + _int(_EVENT_TRACK, track) + rest
        if name:
            event += _text(_EVENT_NAME, name)
        for key, value in (arguments or {}).items():
            told = (
                _text(_ANNOTATION_STRING, value)
                if isinstance(value, str)
                else _int(_ANNOTATION_INT, value)
            )
            event += _bytes(_EVENT_ANNOTATION, _text(_ANNOTATION_NAME, key) + told)
        self._packet(_PACKET_TRACK_EVENT, event, t_ns)

    def _packet(self, field: int, content: bytes, t_ns: int | None = None) -> None:
        packet = _bytes(field, content) + _int(_PACKET_SEQUENCE_ID, 1)
        if t_ns is not None:
            packet += _int(_PACKET_TIMESTAMP, t_ns)
        self._write(_bytes(_TRACE_PACKET, packet))


def _flows(ids: Iterable[int]) -> bytes:
    return b"".join(_fixed64(_EVENT_FLOW, flow) for flow in ids)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + pack("<Q", value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    if value < 0x80:
        return _SHORT[value]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SHORT = [bytes([value]) for value in range(0x80)]
