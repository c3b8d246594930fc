"""A snapshot that is kept in pieces comes out byte for byte, whatever was left out before it."""

from zlib import compress

import msgspec
import pytest
from capturing import CONFIG, capture
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.core.engine import Engine
from tokenreel.tools.replay.index import snapshots as index_snapshots
from tokenreel.tools.replay.index.snapshots import (
    Kept,
    PoolChange,
    SnapshotKeeper,
    UnpackFailed,
    arranged,
    pack_change,
    restored,
    unpack_change,
)
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    engine = Engine(CONFIG)
    taken = []
    for event in recorded_events(open_journal(capture(tmp_path_factory.mktemp("journals")))):
        engine.apply(event.event)
        taken.append(engine.snapshot())
    return taken


def out_of(kept: list[Kept], changes: list[PoolChange], number: int) -> bytes:
    first = max(place for place in range(number + 1) if changes[place].is_whole)
    stored = [unpack_change(pack_change(each)) for each in changes[first : number + 1]]
    return restored(kept[number].rest, stored, kept[number].crc, kept[number].num_bytes)


def test_each_comes_out_as_it_went_in(snapshots: list[bytes]) -> None:
    keeper = SnapshotKeeper()
    kept = [keeper.keep(snapshot) for snapshot in snapshots]
    changes = [each.change for each in kept]
    assert [change.is_whole for change in changes] == [True] + [False] * (len(changes) - 1)
    assert any(None in change.links.values() for change in changes)  # something was evicted
    for number in range(0, len(snapshots), 7):
        assert out_of(kept, changes, number) == snapshots[number]


def test_a_whole_one_now_and_then_shortens_the_way(
    snapshots: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_snapshots, "WHOLE_EVERY", 5)
    keeper = SnapshotKeeper()
    kept = [keeper.keep(snapshot) for snapshot in snapshots[:60]]
    changes = arranged([each.change for each in kept])
    assert [number for number, each in enumerate(changes) if each.is_whole] == [*range(0, 60, 5)]
    for number in range(60):
        assert out_of(kept, changes, number) == snapshots[number]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(data=st.data())
def test_what_is_left_out_is_told_by_the_next(snapshots: list[bytes], data: st.DataObject) -> None:
    chosen = sorted(data.draw(st.sets(st.integers(0, 80), min_size=1, max_size=12)))
    keeper = SnapshotKeeper()
    kept = [keeper.keep(snapshot) for snapshot in snapshots[:81]]
    thinned, changes, last = [], [], -1
    for number in chosen:
        change = kept[last + 1].change
        for between in kept[last + 2 : number + 1]:
            change = change.then(between.change)
        thinned.append(kept[number])
        changes.append(change)
        last = number
    for place, number in enumerate(chosen):
        assert out_of(thinned, changes, place) == snapshots[number]


def test_going_on_from_what_was_kept_is_as_if_it_had_not_stopped(snapshots: list[bytes]) -> None:
    keeper = SnapshotKeeper()
    kept = [keeper.keep(snapshot) for snapshot in snapshots[:30]]
    again = SnapshotKeeper(unpack_change(pack_change(each.change)) for each in kept)
    kept.append(again.keep(snapshots[40]))
    changes = [each.change for each in kept]
    assert not changes[-1].is_whole
    assert out_of(kept, changes, 30) == snapshots[40]


@pytest.mark.parametrize("snapshot", [b"", b"no msgpack \xff", b"\x80", b"\x93\x01\x02\x03"])
def test_what_is_no_snapshot_of_our_core_is_kept_as_it_is(snapshot: bytes) -> None:
    kept = [SnapshotKeeper().keep(snapshot)]
    assert out_of(kept, [kept[0].change], 0) == snapshot


def test_pieces_that_do_not_belong_together_are_refused(snapshots: list[bytes]) -> None:
    keeper = SnapshotKeeper()
    first, second = keeper.keep(snapshots[50]), keeper.keep(snapshots[60])
    with pytest.raises(UnpackFailed):
        restored(second.rest, [first.change], second.crc, second.num_bytes)
    with pytest.raises(UnpackFailed):
        restored(b"torn", [first.change], first.crc, first.num_bytes)
    one_block_without_its_link = (1, True, bytes(4), b"", b"", b"", b"")
    for packed in (b"torn", compress(msgspec.msgpack.encode(one_block_without_its_link))):
        with pytest.raises(UnpackFailed):
            unpack_change(packed)
