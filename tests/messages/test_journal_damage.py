"""Damage is refused with its place, a torn tail is named, and nothing is accepted in silence."""

from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.messages.journal import (
    EFFECT,
    HEADER_BYTES,
    IGNORABLE,
    INPUT,
    LAST_OF_WRITE,
    LOGPROBS,
    META,
    RECORD_HEADER_BYTES,
    RUN_ENDED,
    JournalDamaged,
    PendingRecord,
    Record,
    SegmentEncoder,
    SegmentHeader,
)
from tokenreel.messages.journal_reader import SegmentReader

HEADER = SegmentHeader("run", 1, 0, 1, 0, 0, salt=99)
PAYLOADS = [b"", b"a", b"seven..", b"eight...", bytes(range(40)), b"z" * 100]


def written(writes: list[list[bytes]]) -> bytes:
    """A segment: META, then each write with these payloads; the first of a write is its input."""
    encoder = SegmentEncoder(HEADER)
    data = encoder.header_bytes + encoder.encode([PendingRecord(META, 0, b"m", 0)], 1)
    seq = 2
    for payloads in writes:
        batch = [
            PendingRecord(5 if i == 0 else 35, INPUT if i == 0 else EFFECT, payload, 10 * seq + i)
            for i, payload in enumerate(payloads)
        ]
        data += encoder.encode(batch, seq)
        seq += len(batch)
    return data


def read(data: bytes) -> tuple[list[Record], SegmentReader]:
    reader = SegmentReader(data, "seg")
    return list(reader), reader


DATA = written([PAYLOADS[:2], PAYLOADS[2:4], [PAYLOADS[4]], PAYLOADS[3:]])
RECORDS = read(DATA)[0]
MARKS = [
    record.offset + RECORD_HEADER_BYTES + len(record.payload) + -len(record.payload) % 8
    for record in RECORDS
    if record.flags & LAST_OF_WRITE
]


def test_a_segment_cut_at_any_byte_of_its_last_three_records_keeps_what_was_committed() -> None:
    for length in range(RECORDS[-3].offset, len(DATA)):
        records, reader = read(DATA[:length])
        mark = max(mark for mark in MARKS if mark <= length)
        assert records == [record for record in RECORDS if record.offset < mark]
        if length == mark:
            assert reader.torn is None
        else:
            assert reader.torn == (mark, length - mark)


def test_a_segment_cut_at_any_byte_at_all_is_read_up_to_a_commit_mark_or_refused() -> None:
    for length in range(len(DATA)):
        if length < HEADER_BYTES:
            with pytest.raises(JournalDamaged, match="cut within its header"):
                read(DATA[:length])
            continue
        records, reader = read(DATA[:length])
        assert records == RECORDS[: len(records)]
        assert reader.torn is not None or length in MARKS


def test_every_flipped_bit_before_the_last_write_is_refused_at_its_record() -> None:
    last_write = MARKS[-2]
    for position in range(HEADER_BYTES, last_write):
        at_fault = max(record.offset for record in RECORDS if record.offset <= position)
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[position] ^= 1 << bit
            with pytest.raises(JournalDamaged) as refusal:
                read(bytes(damaged))
            assert (refusal.value.segment, refusal.value.offset) == ("seg", at_fault)
            assert "is damaged, and a valid one follows" in refusal.value.reason


def test_every_flipped_bit_of_the_last_record_is_a_torn_tail() -> None:
    for position in range(RECORDS[-1].offset, len(DATA)):
        for bit in range(8):
            damaged = bytearray(DATA)
            damaged[position] ^= 1 << bit
            records, reader = read(bytes(damaged))
            assert records == [record for record in RECORDS if record.offset < MARKS[-2]]
            assert reader.torn == (MARKS[-2], len(DATA) - MARKS[-2])


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 33, b"\0", DATA[HEADER_BYTES:]])
def test_what_a_file_system_leaves_behind_the_last_write_is_a_torn_tail(tail: bytes) -> None:
    """Zeros of a size that outran the data; blocks that belonged to an older file; the stale
    records of this very segment, whose sequence numbers are too low."""
    data = DATA if tail != DATA[HEADER_BYTES:] else DATA + b"garbage!"
    records, reader = read(data + tail)
    assert records == RECORDS
    assert reader.torn is not None and reader.torn.offset == len(DATA)


def test_a_record_that_is_cut_out_or_repeated_breaks_the_link() -> None:
    second, third = RECORDS[3].offset, RECORDS[4].offset
    with pytest.raises(JournalDamaged, match="seq 5 where 4 belongs: records are missing"):
        read(DATA[:second] + DATA[third:])
    with pytest.raises(JournalDamaged, match="seq 4 where 5 belongs"):
        read(DATA[:third] + DATA[second:third] + DATA[third:])


def test_a_record_exchanged_for_a_valid_one_breaks_the_link_of_the_next() -> None:
    encoder = SegmentEncoder(HEADER)
    encoder.encode([PendingRecord(META, 0, b"m", 0)], 1)
    other = encoder.encode([PendingRecord(5, INPUT, b"", 1), PendingRecord(35, EFFECT, b"b", 2)], 2)
    start, end = RECORDS[1].offset, RECORDS[3].offset
    assert len(other) == end - start
    with pytest.raises(JournalDamaged, match="seq 4 does not follow the one before it"):
        read(DATA[:start] + other + DATA[end:])


damages = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 10**6), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 10**6), st.integers(1, 100)),
        st.tuples(st.just("insert"), st.integers(0, 10**6), st.integers(1, 100)),
        st.tuples(st.just("zero"), st.integers(0, 10**6), st.integers(1, 100)),
    ),
    min_size=1,
    max_size=4,
)


def damage(data: bytes, kind: str, position: int, amount: int) -> bytes:
    at = position % (len(data) or 1)
    match kind:
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << amount]) + data[at + 1 :] if data else data
        case "cut":
            return data[:at]
        case "delete":
            return data[:at] + data[at + amount :]
        case "insert":
            return data[:at] + data[at : at + amount] + data[at:]
        case _:
            return data[:at] + bytes(len(data[at : at + amount])) + data[at + amount :]


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), min_size=1, max_size=6),
    damages,
)
def test_random_damage_is_refused_or_named_and_never_changes_a_record(
    writes: list[list[bytes]], hits: list[tuple[str, int, int]]
) -> None:
    whole = written(writes)
    data = whole
    for kind, position, amount in hits:
        data = damage(data, kind, position, amount)
    originals = read(whole)[0]
    try:
        records, reader = read(data)
    except JournalDamaged as refusal:
        assert refusal.segment == "seg"
        assert 0 <= refusal.offset <= len(data)
        return
    assert records == originals[: len(records)]
    if reader.torn is None and data != whole:  # cut exactly at a commit mark
        assert whole.startswith(data)
    elif reader.torn is not None and records:
        assert reader.torn.offset + reader.torn.num_bytes == len(data)
        assert whole.startswith(data[: reader.torn.offset])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=600))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(JournalDamaged):
        read(data)


def with_last_record(record_type: int, flags: int, schema: int) -> bytes:
    """A segment whose last record is sealed as such; a writer of this version writes schema 0."""
    encoder = SegmentEncoder(HEADER)
    meta = encoder.encode([PendingRecord(META, 0, b"m", 0)], 1)
    last = bytearray(encoder.encode([PendingRecord(record_type, flags, b"payload", 5)], 2))
    last[14] = schema
    last[4:8] = crc32(last[8:], crc32(last[:4], HEADER.salt)).to_bytes(4, "little")
    return encoder.header_bytes + meta + bytes(last)


@pytest.mark.parametrize(
    ("record_type", "flags", "schema", "reason"),
    [
        (5, INPUT, 1, "has schema 1, which is unknown here"),
        (35, EFFECT, 255, "has schema 255, which is unknown here"),
        (RUN_ENDED, 0, 1, "has schema 1"),
        (5, INPUT | 32, 0, "has flags 0x29, which are unknown here"),
        (210, IGNORABLE | 128, 0, "has flags 0x8c"),
        (5, INPUT | EFFECT, 0, "has flags 0x0b"),
        (200, 0, 0, "has type 200, which is unknown here and may not be ignored"),
        (LOGPROBS, 0, 0, "has type 99"),
    ],
)
def test_a_valid_record_of_an_unknown_kind_is_refused_with_its_place(
    record_type: int, flags: int, schema: int, reason: str
) -> None:
    data = with_last_record(record_type, flags, schema)
    with pytest.raises(JournalDamaged, match=f"the record with seq 2 {reason}") as refusal:
        read(data)
    assert refusal.value.offset == RECORDS[1].offset
    assert refusal.value.reason.endswith("a later version wrote it")


@pytest.mark.parametrize("schema", [0, 1])
def test_a_record_that_may_be_ignored_is_of_any_kind(schema: int) -> None:
    records, reader = read(with_last_record(210, IGNORABLE, schema))
    assert [record.type for record in records] == [META, 210]
    assert reader.torn is None
