"""Links between actors: nothing is lost, reordered or believed without being checked."""

import asyncio
import random
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.runtime import channels
from tokenreel.actors.runtime.channels import (
    MAX_FRAMES_PER_TURN,
    ChannelFull,
    Frame,
    FrameTooLarge,
    Inbox,
    Outbox,
    new_context,
)

PATIENCE_S = 30.0
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Bench:
    """Makes channels in a directory of their own and closes them all."""

    def __init__(self) -> None:
        self.context = new_context()
        self.directory = tempfile.mkdtemp(prefix="channels-")
        self.address = f"ipc://{self.directory}/worker.0"
        self._opened: list[Inbox | Outbox | zmq.Socket[bytes]] = []

    def inbox(self) -> Inbox:
        inbox = Inbox(self.context, self.address)
        self._opened.append(inbox)
        return inbox

    def outbox(self, identity: str = "engine_core.0.1", capacity: int = 10_000) -> Outbox:
        outbox = Outbox(self.context, self.address, identity, capacity)
        self._opened.append(outbox)
        return outbox

    def raw_sender(self, identity: bytes = b"frontend.0.1") -> zmq.Socket[bytes]:
        """For what no outbox would send."""
        sender = self.context.socket(zmq.DEALER)
        if identity:
            sender.setsockopt(zmq.IDENTITY, identity)
        sender.connect(self.address)
        self._opened.append(sender)
        return sender

    def close(self) -> None:
        for channel in self._opened:
            if isinstance(channel, zmq.Socket):
                channel.close(linger=0)
            else:
                channel.close()
        self.context.destroy(linger=0)
        shutil.rmtree(self.directory)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


def receive(inbox: Inbox, num_frames: int) -> list[Frame]:
    frames: list[Frame] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(frames) < num_frames:
        assert inbox.poll(deadline - time.monotonic()), f"{len(frames)} of {num_frames} frames came"
        frames += inbox.drain()
    return frames


def drain_until(inbox: Inbox, is_met: Callable[[], bool]) -> list[Frame]:
    frames: list[Frame] = []
    deadline = time.monotonic() + PATIENCE_S
    while not is_met():
        assert inbox.poll(deadline - time.monotonic())
        frames += inbox.drain()
    return frames


def wire(number: int, payload: bytes, attachment: bytes = b"") -> bytes:
    return struct.pack("<QI", number, len(payload)) + payload + attachment


def test_a_frame_arrives_as_it_was_sent(bench: Bench) -> None:
    inbox, outbox = bench.inbox(), bench.outbox("engine_core.0.3")
    outbox.send(b"payload")
    outbox.send(b"", b"attachment alone")
    outbox.send(b"both", b"\x00" * 100_000)
    assert receive(inbox, 3) == [
        Frame("engine_core.0.3", b"payload", b""),
        Frame("engine_core.0.3", b"", b"attachment alone"),
        Frame("engine_core.0.3", b"both", b"\x00" * 100_000),
    ]
    assert inbox.statistics().num_frames == outbox.statistics().num_frames == 3


def test_frames_of_every_link_arrive_in_order(bench: Bench) -> None:
    inbox = bench.inbox()
    outboxes = [bench.outbox(f"frontend.{rank}.1") for rank in range(3)]
    for number in range(500):
        for outbox in outboxes:
            outbox.send(number.to_bytes(4, "little"))
    frames = receive(inbox, 1500)
    for rank in range(3):
        of_link = [f.payload for f in frames if f.sender == f"frontend.{rank}.1"]
        assert of_link == [number.to_bytes(4, "little") for number in range(500)]
    statistics = inbox.statistics()
    assert (statistics.num_links, statistics.num_missing, statistics.num_repeated) == (3, 0, 0)


def test_frames_wait_for_a_destination_that_is_not_up_yet(bench: Bench) -> None:
    outbox = bench.outbox()
    for number in range(10):
        outbox.send(bytes([number]))
    assert [frame.payload for frame in receive(bench.inbox(), 10)] == [
        bytes([n]) for n in range(10)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_no_wake_up_is_lost_over_many_bursts(
    bench: Bench, loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    bursts = [random.Random(seed).choice([1, 1, 2, 63, 64, 65, 200]) for _ in range(150)]
    inbox, outbox = bench.inbox(), bench.outbox()
    taken: list[int] = []
    burst_taken = threading.Event()

    def send_bursts() -> None:
        # The next burst leaves when the last is taken: the inbox has just gone to sleep.
        for size in bursts:
            burst_taken.clear()
            for position in range(size):
                outbox.send(
                    position.to_bytes(4, "little"), b"last" if position == size - 1 else b""
                )
            assert burst_taken.wait(PATIENCE_S), "a wake-up was lost"

    def on_frames(frames: list[Frame]) -> None:
        assert 0 < len(frames) <= MAX_FRAMES_PER_TURN
        taken.extend(int.from_bytes(frame.payload, "little") for frame in frames)
        if any(frame.attachment for frame in frames):
            burst_taken.set()
        if len(taken) == sum(bursts):
            loop.stop()

    inbox.attach(loop, on_frames)
    sender = threading.Thread(target=send_bursts)
    sender.start()
    watchdog = loop.call_later(PATIENCE_S, loop.stop)
    loop.run_forever()
    watchdog.cancel()
    sender.join()
    assert taken == [position for size in bursts for position in range(size)]


def test_frames_that_came_before_the_loop_started_are_taken(
    bench: Bench, loop: asyncio.AbstractEventLoop
) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()
    outbox.send(b"early")
    assert inbox.poll(PATIENCE_S)
    taken: list[Frame] = []

    def on_frames(frames: list[Frame]) -> None:
        taken.extend(frames)
        loop.stop()

    inbox.attach(loop, on_frames)
    loop.run_forever()
    assert [frame.payload for frame in taken] == [b"early"]


def test_others_get_a_turn_between_two_batches_of_a_long_burst(
    bench: Bench, loop: asyncio.AbstractEventLoop
) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()
    num_frames = 3 * MAX_FRAMES_PER_TURN
    for _ in range(num_frames):
        outbox.send(b"x")
    turns: list[str] = []
    taken: list[Frame] = []

    def on_frames(frames: list[Frame]) -> None:
        turns.append("frames")
        loop.call_soon(turns.append, "other")
        taken.extend(frames)
        if len(taken) == num_frames:
            loop.stop()

    inbox.attach(loop, on_frames)
    loop.run_forever()
    third_batch = [position for position, turn in enumerate(turns) if turn == "frames"][2]
    assert "other" in turns[:third_batch]


def test_a_drain_by_hand_that_stops_at_its_limit_loses_no_wake_up(
    bench: Bench, loop: asyncio.AbstractEventLoop
) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()
    for number in range(100):
        outbox.send(bytes([number]))
    taken: list[bytes] = []

    def take(frames: list[Frame]) -> None:
        taken.extend(frame.payload for frame in frames)
        if len(taken) == 100:
            loop.stop()

    def on_frames(frames: list[Frame]) -> None:
        take(frames)
        take(inbox.drain(1))

    inbox.attach(loop, on_frames)
    watchdog = loop.call_later(PATIENCE_S, loop.stop)
    loop.run_forever()
    watchdog.cancel()
    assert taken == [bytes([number]) for number in range(100)]


def test_a_detached_inbox_calls_nobody(bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()

    def on_frames(frames: list[Frame]) -> None:
        raise AssertionError("called")

    inbox.attach(loop, on_frames)
    inbox.detach()
    outbox.send(b"x")
    assert inbox.poll(PATIENCE_S)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(inbox.drain()) == 1


def test_an_interceptor_sees_the_frames_of_its_role_first(bench: Bench) -> None:
    inbox, worker, core = bench.inbox(), bench.outbox("worker.0.1"), bench.outbox()
    taken: list[Frame] = []

    def take_first(frame: Frame) -> bool:
        taken.append(frame)
        return frame.payload == b"mine"

    inbox.intercept("worker", take_first)
    for payload in (b"mine", b"yours"):
        worker.send(payload)
        core.send(payload)
    frames = receive(inbox, 3)
    assert [frame.payload for frame in taken] == [b"mine", b"yours"]
    assert sorted(frame.sender for frame in frames if frame.payload == b"mine") == [
        "engine_core.0.1"
    ]


def test_poll_tells_an_empty_inbox_from_one_with_frames(bench: Bench) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()
    assert not inbox.poll(0)
    assert not inbox.poll(0.001)
    outbox.send(b"x")
    assert inbox.poll(PATIENCE_S)
    assert inbox.poll(0)
    assert len(inbox.drain()) == 1
    assert not inbox.poll(0)


def test_a_gap_is_counted_and_the_frame_after_it_taken(bench: Bench) -> None:
    inbox, sender = bench.inbox(), bench.raw_sender()
    for number in (1, 2, 5):
        sender.send(wire(number, bytes([number])))
    assert [frame.payload for frame in receive(inbox, 3)] == [b"\x01", b"\x02", b"\x05"]
    assert inbox.statistics().num_missing == 2


def test_a_repeated_or_lower_number_is_dropped(bench: Bench) -> None:
    inbox, sender = bench.inbox(), bench.raw_sender()
    for number, payload in [(1, b"a"), (2, b"b"), (2, b"again"), (1, b"old"), (0, b"0"), (3, b"c")]:
        sender.send(wire(number, payload))
    assert [frame.payload for frame in receive(inbox, 3)] == [b"a", b"b", b"c"]
    assert inbox.statistics().num_repeated == 3
    assert inbox.statistics().num_missing == 0


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"short"],
        [struct.pack("<Q", 1)],
        [struct.pack("<QI", 1, 5) + b"four"],
        [struct.pack("<QI", 1, 0xFFFFFFFF)],
        [b"", b"", b""],
        [b"x"] * 40,
    ],
    ids=["empty", "short", "half a header", "size", "huge size", "empty parts", "many parts"],
)
def test_a_malformed_message_is_counted_and_dropped(bench: Bench, parts: list[bytes]) -> None:
    inbox, sender = bench.inbox(), bench.raw_sender()
    sender.send_multipart(parts)
    sender.send(wire(1, b"sound"))
    assert [frame.payload for frame in receive(inbox, 1)] == [b"sound"]
    assert inbox.statistics().num_malformed == 1


def test_a_part_too_many_costs_that_part_only(bench: Bench) -> None:
    inbox, sender = bench.inbox(), bench.raw_sender()
    sender.send_multipart([wire(1, b"first"), b"stray"])
    sender.send(wire(2, b"second"))
    assert [frame.payload for frame in receive(inbox, 2)] == [b"first", b"second"]
    assert inbox.statistics().num_malformed == 1


@pytest.mark.parametrize(
    "name",
    [b"", b"stranger.0.1", b"frontend", b"frontend.0", b"frontend.x.1", b"frontend.0.1.2", b"\xff"],
)
def test_a_sender_that_is_none_of_ours_is_dropped(bench: Bench, name: bytes) -> None:
    inbox, sender = bench.inbox(), bench.raw_sender(name)
    sender.send(wire(1, b"hello"))
    assert drain_until(inbox, lambda: inbox.statistics().num_malformed == 1) == []
    assert inbox.statistics().num_links == 0


def test_the_number_of_links_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_LINKS", 2)
    inbox = bench.inbox()
    for rank in range(3):
        bench.outbox(f"frontend.{rank}.1").send(b"x")
    drain_until(inbox, lambda: inbox.statistics().num_malformed == 1)
    assert inbox.statistics().num_links == 2


@settings(derandomize=True, deadline=None, max_examples=60)
@given(garbage=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=8))
def test_garbage_on_one_link_harms_no_other(garbage: list[list[bytes]]) -> None:
    bench = Bench()
    try:
        inbox, sender, outbox = bench.inbox(), bench.raw_sender(), bench.outbox()
        for parts in garbage:
            outbox.send(b"before")
            sender.send_multipart(parts)
        outbox.send(b"last")
        own = 0
        while own <= len(garbage):
            own += sum(frame.sender == "engine_core.0.1" for frame in receive(inbox, 1))
        assert inbox.statistics().num_repeated == inbox.statistics().num_missing == 0
    finally:
        bench.close()


def test_a_full_link_is_refused_by_name_and_limit(bench: Bench) -> None:
    outbox = bench.outbox(capacity=4)
    for number in range(4):
        assert outbox.is_writable()
        outbox.send(bytes([number]))
    assert not outbox.is_writable()
    with pytest.raises(ChannelFull, match=r"worker\.0 does not read.*capacity 4 frames"):
        outbox.send(b"one too many")
    assert outbox.statistics().num_refused == 1
    assert outbox.statistics().num_frames == 4


def test_a_link_that_was_full_goes_on_without_a_gap(bench: Bench) -> None:
    outbox = bench.outbox(capacity=4)
    for number in range(4):
        outbox.send(bytes([number]))
    with pytest.raises(ChannelFull):
        outbox.send(b"refused")
    inbox = bench.inbox()
    frames = receive(inbox, 4)
    outbox.send(b"\x04")
    frames += receive(inbox, 1)
    assert [frame.payload for frame in frames] == [bytes([number]) for number in range(5)]
    assert inbox.statistics().num_missing == 0


def test_a_frame_over_the_limit_is_refused_before_it_leaves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MAX_FRAME_BYTES", 100)
    inbox, outbox = bench.inbox(), bench.outbox()
    with pytest.raises(FrameTooLarge, match=r"112 bytes to worker\.0 \(limit 100\)"):
        outbox.send(b"x" * 50, b"y" * 50)
    outbox.send(b"z" * 88)
    assert [frame.payload for frame in receive(inbox, 1)] == [b"z" * 88]


def test_a_sender_of_too_large_messages_is_cut_off_and_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "MAX_FRAME_BYTES", 100)
    inbox, outbox, sender = bench.inbox(), bench.outbox(), bench.raw_sender()
    monitor = sender.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    sender.send(wire(1, b"x" * 200))
    assert monitor.poll(int(PATIENCE_S * 1000))
    sender.disable_monitor()
    monitor.close()
    outbox.send(b"sound")
    assert [frame.payload for frame in receive(inbox, 1)] == [b"sound"]


def test_closing_an_outbox_still_delivers(bench: Bench) -> None:
    inbox, outbox = bench.inbox(), bench.outbox()
    outbox.send(b"last words")
    outbox.close()
    assert [frame.payload for frame in receive(inbox, 1)] == [b"last words"]
