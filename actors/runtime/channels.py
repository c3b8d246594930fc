"""The links between actors: one inbox per actor, one outbox per destination. Only here is zmq used.

A frame is a payload with, rarely, an attachment. It travels as one zmq part: a u64 that counts the
frames of the link from 1, the u32 size of the payload, payload, attachment. (Asking zmq whether
another part follows costs twice what receiving one does.) Nothing here blocks: an outbox that is
full raises, because a full link means that its reader has stopped.
"""

import asyncio
import contextlib
import select
import struct
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, cast

import msgspec
import zmq
from zmq.backend import Socket as RawSocket

from tokenreel.actors.runtime.topology import ROLES, SUPERVISOR

MAX_FRAMES_PER_TURN = 64
MAX_FRAME_BYTES = 64 << 20
"""Header included. Larger frames do not leave, and cut the link if they arrive."""
DEFAULT_CAPACITY = 16384
"""Frames that one link holds on either side."""
MAX_LINKS = 1024
LINGER_MS = 1000
"""How long a closing outbox may still deliver."""
RECONNECT_MS = 20

_HEADER = struct.Struct("<QI")
_HEADER_SIZE = _HEADER.size
# Plain integers: the enums cost more than the system calls they describe.
_DONTWAIT = int(zmq.DONTWAIT)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_RCVMORE = int(zmq.RCVMORE)


class Frame(NamedTuple):
    """`sender` is an identity, `role.rank.epoch`; `attachment` is empty if there is none."""

    sender: str
    payload: bytes
    attachment: bytes


class ChannelFull(RuntimeError):
    """The destination does not read, and the link holds as many frames as it may."""


class FrameTooLarge(ValueError):
    """The frame is over `MAX_FRAME_BYTES`; it was not sent."""


class InboxStatistics(msgspec.Struct, frozen=True):
    num_frames: int
    num_links: int
    num_missing: int
    """Frames that never came, by the numbers of those that did."""
    num_repeated: int
    """Frames dropped because their number had been seen."""
    num_malformed: int
    """Frames dropped because of their shape or their sender."""


class OutboxStatistics(msgspec.Struct, frozen=True):
    destination: str
    num_frames: int
    num_refused: int
    """Frames that were not sent, because the link was full."""


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One per process. `term()` it after every channel is closed."""
    return zmq.Context()


def _integer_options(socket: zmq.Socket[bytes]) -> Callable[[int], int]:
    return cast(Callable[[int], int], partial(RawSocket.get, socket))


class Outbox:
    """The sending end of one link. Frames wait here while the destination is not up yet."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        identity: str,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity.encode())
        self._socket.setsockopt(zmq.SNDHWM, capacity)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.connect(address)
        # The methods of the compiled class: half the cost of zmq's Python wrappers around them.
        self._send_part = partial(RawSocket.send, self._socket)
        self._get = _integer_options(self._socket)
        self._destination = address.rpartition("/")[2]
        self._capacity = capacity
        self._num_sent = 0
        self._num_refused = 0

    def send(self, payload: bytes, attachment: bytes = b"") -> None:
        """Never blocks. Raises `ChannelFull` or `FrameTooLarge`; then nothing was sent."""
        part = _HEADER.pack(self._num_sent + 1, len(payload)) + payload + attachment
        if len(part) > MAX_FRAME_BYTES:
            raise FrameTooLarge(
                f"a frame of {len(part)} bytes to {self._destination} (limit {MAX_FRAME_BYTES})"
            )
        try:
            self._send_part(part, _DONTWAIT)
        except zmq.Again:
            self._send_again(part)
        self._num_sent += 1

    def is_writable(self) -> bool:
        return bool(self._get(_EVENTS) & _POLLOUT)

    def statistics(self) -> OutboxStatistics:
        return OutboxStatistics(self._destination, self._num_sent, self._num_refused)

    def close(self) -> None:
        """What is on its way may still arrive, for as long as `LINGER_MS`."""
        self._socket.close()

    def _send_again(self, part: bytes) -> None:
        # zmq looks for freed room once per millisecond only, unless it is asked.
        if self.is_writable():
            with contextlib.suppress(zmq.Again):
                self._send_part(part, _DONTWAIT)
                return
        self._num_refused += 1
        raise ChannelFull(
            f"{self._destination} does not read: the link to it is full (capacity "
            f"{self._capacity} frames)"
        )


class _Link:
    """What an inbox knows about one sender."""

    __slots__ = ("last_number", "sender", "take_first")

    def __init__(self, sender: str, take_first: Callable[[Frame], bool] | None) -> None:
        self.sender = sender
        self.last_number = 0
        self.take_first = take_first


class Inbox:
    """The receiving end of all links to one actor; frames of one link arrive in order."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        capacity: int = DEFAULT_CAPACITY,
        sender_roles: Collection[str] = (*ROLES, SUPERVISOR),
    ) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVHWM, capacity)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        self._receive_part = partial(RawSocket.recv, self._socket)
        self._get = _integer_options(self._socket)
        self._sender_roles = frozenset(sender_roles)
        self._links: dict[bytes, _Link] = {}
        self._take_first: dict[str, Callable[[Frame], bool]] = {}
        self._num_frames = 0
        self._num_missing = 0
        self._num_repeated = 0
        self._num_malformed = 0
        self._fileno: int = self._socket.fileno()
        self._poller = select.poll()
        self._poller.register(self._fileno, select.POLLIN)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_frames: Callable[[list[Frame]], None] | None = None
        self._next_turn: asyncio.Handle | None = None

    def intercept(self, role: str, take_first: Callable[[Frame], bool]) -> None:
        """Offer each frame of `role` to `take_first`; where it answers True nobody else sees it.
        Call it before the first frame is taken."""
        self._take_first[role] = take_first

    def drain(self, limit: int = MAX_FRAMES_PER_TURN) -> list[Frame]:
        """At most `limit` frames that are here already; empty if there are none."""
        return self._drain(limit) if self._get(_EVENTS) & _POLLIN else []

    def _drain(self, limit: int) -> list[Frame]:
        frames: list[Frame] = []
        for num_read in range(limit):
            # zmq has handled all its signals before it says that there is no more, either way:
            # the next frame makes the descriptor readable again. To ask costs 1.0 us, an
            # exception 2.7: most often it is one frame, and a burst need not be asked about.
            if 1 <= num_read <= 2 and not self._get(_EVENTS) & _POLLIN:
                return frames
            try:
                frame = self._read_frame()
            except zmq.Again:
                return frames
            if frame is not None:
                frames.append(frame)
        # More may be here, and the descriptor tells of newcomers only.
        self._schedule_turn()
        return frames

    def fileno(self) -> int:
        """Readable when something may have happened. Only `attach` and `poll` read it rightly."""
        return self._fileno

    def attach(
        self, loop: asyncio.AbstractEventLoop, on_frames: Callable[[list[Frame]], None]
    ) -> None:
        """Call `on_frames` with what arrives, at most `MAX_FRAMES_PER_TURN` frames per turn of the
        loop. `on_frames` must not raise; it may call `drain` for more."""
        self._loop = loop
        self._on_frames = on_frames
        loop.add_reader(self._fileno, self._turn)
        self._schedule_turn()

    def detach(self) -> None:
        if self._loop is None:
            return
        self._loop.remove_reader(self._fileno)
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._loop = self._on_frames = self._next_turn = None

    def poll(self, timeout_s: float) -> bool:
        """Wait until `drain` has something to look at; for actors without a loop."""
        deadline = time.monotonic() + timeout_s
        while not self._get(_EVENTS) & _POLLIN:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self._poller.poll(remaining_s * 1000)
        return True

    def statistics(self) -> InboxStatistics:
        return InboxStatistics(
            num_frames=self._num_frames,
            num_links=len(self._links),
            num_missing=self._num_missing,
            num_repeated=self._num_repeated,
            num_malformed=self._num_malformed,
        )

    def close(self) -> None:
        self.detach()
        self._socket.close()

    def _turn(self) -> None:
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        on_frames = self._on_frames
        frames = self._drain(MAX_FRAMES_PER_TURN)
        if frames and on_frames is not None:
            on_frames(frames)

    def _schedule_turn(self) -> None:
        if self._loop is not None and self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._turn)

    def _read_frame(self) -> Frame | None:
        """None if it was dropped. Raises `zmq.Again` if there is none."""
        identity = self._receive_part(_DONTWAIT)  # zmq puts the sender's name in front.
        link = self._links.get(identity) or self._new_link(identity)
        if link is None:
            self._drop_message()
            return None
        part = self._receive_part(_DONTWAIT)
        if len(part) < _HEADER_SIZE:
            self._drop_message()
            return None
        number, payload_size = _HEADER.unpack_from(part)
        end = _HEADER_SIZE + payload_size
        if end > len(part):
            self._drop_message()
            return None
        if number != link.last_number + 1:
            if number <= link.last_number:
                self._num_repeated += 1
                return None
            self._num_missing += number - link.last_number - 1
        link.last_number = number
        self._num_frames += 1
        frame = Frame(link.sender, part[_HEADER_SIZE:end], part[end:])
        if link.take_first is not None and link.take_first(frame):
            return None
        return frame

    def _drop_message(self) -> None:
        # Whatever the parts were (one too many looks like an unknown sender), the next one
        # after the last of this message is a sender's name again.
        while self._get(_RCVMORE):
            self._receive_part(_DONTWAIT)
        self._num_malformed += 1

    def _new_link(self, identity: bytes) -> _Link | None:
        """Links are few and last: a sender that is none of ours gets none."""
        role, *numbers = identity.decode("ascii", "replace").split(".")
        is_ours = role in self._sender_roles and len(numbers) == 2
        if not is_ours or not all(map(str.isdecimal, numbers)) or len(self._links) >= MAX_LINKS:
            return None
        link = self._links[identity] = _Link(identity.decode("ascii"), self._take_first.get(role))
        return link
