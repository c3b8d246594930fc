"""No verb believes a damaged journal, none stumbles over it: each names segment and offset."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from capturing import capture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreel.actors.runtime.journal_directory import segments_of
from tokenreel.messages.journal import (
    EFFECT,
    HEADER_BYTES,
    INPUT,
    PendingRecord,
    Record,
    SegmentEncoder,
)
from tokenreel.messages.journal_reader import SegmentReader
from tokenreel.tools.exit_codes import EXIT_DAMAGED, EXIT_OK
from tokenreel.tools.replay.cli import COMMAND, main

ARGUMENTS = {
    "step": ["5"],
    "why": ["s1"],
    "redact": ["OUT"],
    "export": ["OUT.pftrace"],
    "keep": ["--name", "symptom", "--into", "."],
    "shrink": ["--symptom", "exception"],
}
"""What a verb demands behind the journal. A verb that demands more is told by this test."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("whole"), events_per_segment=150)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("another"), events_per_segment=150)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def segment(run: Path, number: int) -> Path:
    return run / f"engine-1-{number}.tkr"


def records_of(path: Path) -> list[Record]:
    return list(SegmentReader(path.read_bytes(), path.name))


def change(path: Path, offset: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


def flip(path: Path, offset: int, bit: int = 3) -> None:
    change(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))


def seal_header(path: Path) -> None:
    data = path.read_bytes()
    change(path, HEADER_BYTES - 4, crc32(data[: HEADER_BYTES - 4]).to_bytes(4, "little"))


def seal_last_record(path: Path) -> None:
    data, last = path.read_bytes(), records_of_unsealed(path)
    salt = SegmentReader(data, path.name).header.salt
    body = crc32(data[last + 8 :], crc32(data[last : last + 4], salt))
    change(path, last + 4, body.to_bytes(4, "little"))


def records_of_unsealed(path: Path) -> int:
    """The offset of the last record, whose checksum no longer fits: it reads as a torn tail."""
    reader = SegmentReader(path.read_bytes(), path.name)
    list(reader)
    assert reader.torn is not None
    return reader.torn.offset


def cut_within_the_header(run: Path, _: Path) -> None:
    path = segment(run, 1)
    path.write_bytes(path.read_bytes()[:50])


def cut_within_a_record(run: Path, _: Path) -> None:
    path = segment(run, 1)
    path.write_bytes(path.read_bytes()[: records_of(path)[20].offset + 17])


def cut_between_two_writes(run: Path, _: Path) -> None:
    path = segment(run, 1)
    record = next(record for record in records_of(path)[20:] if record.flags & INPUT)
    path.write_bytes(path.read_bytes()[: record.offset])


def the_only_segment_is_empty(run: Path, _: Path) -> None:
    for number in range(1, len(segments_of(run))):
        segment(run, number).unlink()
    segment(run, 0).write_bytes(b"")


def a_bit_of_a_header(run: Path, _: Path) -> None:
    flip(segment(run, 2), 57)


def a_bit_of_a_length(run: Path, _: Path) -> None:
    flip(segment(run, 1), records_of(segment(run, 1))[9].offset + 1)


def a_bit_of_a_checksum(run: Path, _: Path) -> None:
    flip(segment(run, 1), records_of(segment(run, 1))[9].offset + 5)


def a_bit_of_a_payload(run: Path, _: Path) -> None:
    flip(segment(run, 0), records_of(segment(run, 0))[30].offset + 34)


def a_bit_of_a_snapshot(run: Path, _: Path) -> None:
    flip(segment(run, 1), records_of(segment(run, 1))[1].offset + 100)


def a_segment_is_missing(run: Path, _: Path) -> None:
    segment(run, 1).unlink()


def a_foreign_segment(run: Path, another: Path) -> None:
    shutil.copyfile(segment(another, 1), segment(run, 1))


def two_segments_are_swapped(run: Path, _: Path) -> None:
    first, second = segment(run, 1).read_bytes(), segment(run, 2).read_bytes()
    segment(run, 1).write_bytes(second)
    segment(run, 2).write_bytes(first)


def a_segment_is_there_twice(run: Path, _: Path) -> None:
    last = len(segments_of(run)) - 1
    shutil.copyfile(segment(run, last), segment(run, last + 1))


def no_segment_at_all(run: Path, _: Path) -> None:
    segment(run, 0).write_bytes(b"MZ" + bytes(5000))


def an_older_format(run: Path, _: Path) -> None:
    change(segment(run, 0), 8, b"\0\0")
    seal_header(segment(run, 0))


def a_newer_format(run: Path, _: Path) -> None:
    change(segment(run, 0), 8, b"\x02\0")
    seal_header(segment(run, 0))


def an_unknown_type(run: Path, _: Path) -> None:
    alter_last_record(run, 12, b"\xc8\0")


def an_unknown_flag(run: Path, _: Path) -> None:
    alter_last_record(run, 15, b"\x48")


def an_unknown_schema(run: Path, _: Path) -> None:
    alter_last_record(run, 14, b"\x01")


def alter_last_record(run: Path, place: int, new: bytes) -> None:
    """It stays valid: its checksum is made anew."""
    path = segment(run, len(segments_of(run)) - 1)
    offset = records_of(path)[-1].offset
    change(path, offset + place, new)
    seal_last_record(path)


def no_message_in_an_event(run: Path, _: Path) -> None:
    rewrite(run, lambda records: records[40]._replace(payload=b"\xc1"), 40)


def an_event_of_another_type(run: Path, _: Path) -> None:
    rewrite(run, lambda records: records[1]._replace(payload=records[40].payload), 1)


def an_effect_without_an_event(run: Path, _: Path) -> None:
    rewrite(run, lambda records: records[1]._replace(flags=EFFECT), 1)


def meta_is_no_meta(run: Path, _: Path) -> None:
    rewrite(run, lambda records: records[0]._replace(payload=b"\xc1"), 0)


def meta_comes_late(run: Path, _: Path) -> None:
    rewrite(run, lambda records: records[1], 0)


def rewrite(run: Path, replaced: Callable[[list[Record]], Record], number: int) -> None:
    """The first segment alone, sealed anew, with another record in the place of one."""
    path = segment(run, 0)
    records = records_of(path)
    records[number] = replaced(records)
    encoder = SegmentEncoder(SegmentReader(path.read_bytes(), path.name).header)
    data = encoder.header_bytes
    seq = 1
    for record in records:
        flags = record.flags & ~8
        pending = PendingRecord(record.type, flags, record.payload, record.t_ns)
        data += encoder.encode([pending], seq)
        seq += 1
    for other in segments_of(run):
        other.path.unlink()
    path.write_bytes(data)


DAMAGES = [
    cut_within_the_header,
    cut_within_a_record,
    cut_between_two_writes,
    the_only_segment_is_empty,
    a_bit_of_a_header,
    a_bit_of_a_length,
    a_bit_of_a_checksum,
    a_bit_of_a_payload,
    a_bit_of_a_snapshot,
    a_segment_is_missing,
    a_foreign_segment,
    two_segments_are_swapped,
    a_segment_is_there_twice,
    no_segment_at_all,
    an_older_format,
    a_newer_format,
    an_unknown_type,
    an_unknown_flag,
    an_unknown_schema,
    no_message_in_an_event,
    an_event_of_another_type,
    an_effect_without_an_event,
    meta_is_no_meta,
    meta_comes_late,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("verb", COMMAND.verbs)
def test_every_verb_refuses_every_damage_with_its_place(
    verb: str,
    damage: Callable[[Path, Path], None],
    run: Path,
    another: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(run, another)
    assert main([verb, str(run), *ARGUMENTS.get(verb, [])]) == EXIT_DAMAGED
    said = capsys.readouterr().err
    assert re.search(r"^engine-replay: damaged journal: engine-1-\d\.tkr, offset \d+: ", said, re.M)
    assert "Traceback" not in said


def test_damage_is_placed_where_it_is(
    run: Path, another: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = records_of(segment(run, 0))[30].offset
    a_bit_of_a_payload(run, another)
    assert main(["verify", str(run)]) == EXIT_DAMAGED
    assert f"engine-1-0.tkr, offset {at}: the record with seq 31" in capsys.readouterr().err


@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(number=st.integers(0, 10), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused_or_cuts_the_last_write_and_says_so(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    where: float,
    bit: int,
) -> None:
    run = tmp_path / "flipped"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    path = segments_of(run)[number % len(segments_of(run))].path
    offset = int(where * path.stat().st_size)
    flip(path, offset, bit)
    exit_code = main(["verify", "--once", str(run)])
    said = capsys.readouterr()
    if exit_code == EXIT_OK:
        assert f"{path.name} ends in a torn tail" in said.out
        assert path == segments_of(run)[-1].path
    else:
        assert exit_code == EXIT_DAMAGED
        assert re.search(r"damaged journal: engine-1-\d\.tkr, offset \d+: ", said.err)


def test_a_damaged_journal_is_one_json_object_too(
    run: Path, another: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    a_bit_of_a_checksum(run, another)
    at = records_of(segment(another, 1))[9].offset
    assert main(["verify", "--json", str(run)]) == EXIT_DAMAGED
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], report["cause"]) == ("damaged", "damaged journal")
    assert report["damage"]["segment"] == "engine-1-1.tkr"
    assert report["damage"]["offset"] == at
    assert report["divergence"] is None
