"""The journal's bytes: what is written is what is read, and the layout stays what the docs say."""

from struct import pack, unpack_from
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
    MAX_PAYLOAD_BYTES,
    META,
    SNAPSHOT_PART_BYTES,
    JournalDamaged,
    PendingRecord,
    SegmentEncoder,
    SegmentHeader,
    decode_header,
    encode_header,
    join_snapshot,
    read_record,
    split_snapshot,
)
from tokenreel.messages.journal_reader import SegmentReader, check_order, check_segment

HEADER = SegmentHeader(
    run_id="20260101-000000-abcdef",
    epoch=1,
    number=0,
    first_seq=1,
    wall_ns=1_767_225_600_000_000_000,
    monotonic_ns=5_000,
    salt=0x1234_5678,
)


def segment_of(
    *writes: list[PendingRecord], header: SegmentHeader = HEADER
) -> tuple[bytes, SegmentEncoder]:
    encoder = SegmentEncoder(header)
    data, seq = encoder.header_bytes, header.first_seq
    for write in [[PendingRecord(META, 0, b"meta", header.monotonic_ns)], *writes]:
        data += encoder.encode(write, seq)
        seq += len(write)
    return data, encoder


def test_a_header_comes_back_as_it_was() -> None:
    header = HEADER._replace(flags=1, previous_length=2**40, previous_crc=7, first_seq=2**63)
    encoded = encode_header(header)
    assert len(encoded) == HEADER_BYTES
    assert decode_header(encoded, "s") == header


def test_a_header_has_the_documented_layout() -> None:
    encoded = encode_header(
        SegmentHeader("run", 2, 3, 4, 5, 6, salt=7, flags=1, previous_length=8, previous_crc=9)
    )
    assert encoded[:16] == b"\x89TKREEL\n" + pack("<HHI", 1, 104, 1)
    assert encoded[16:48] == b"run" + bytes(29)
    assert encoded[48:100] == pack("<IIQQQQIII", 2, 3, 4, 5, 6, 8, 9, 7, 0)
    assert encoded[100:] == pack("<I", crc32(encoded[:100]))


def test_every_flipped_bit_of_a_header_is_refused() -> None:
    encoded = encode_header(HEADER)
    for bit in range(8 * HEADER_BYTES):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JournalDamaged, match="seg, offset 0"):
            decode_header(bytes(damaged), "seg")


def test_a_header_of_another_format_version_is_refused_by_its_number() -> None:
    body = encode_header(HEADER)[:-4]
    body = body[:8] + pack("<H", 9) + body[10:]
    with pytest.raises(JournalDamaged, match="format version 9 is not 1"):
        decode_header(body + pack("<I", crc32(body)), "seg")


@pytest.mark.parametrize("run_id", ["", "x" * 33])
def test_a_run_id_that_does_not_fit_is_refused(run_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        encode_header(HEADER._replace(run_id=run_id))


def test_a_record_has_the_documented_layout() -> None:
    encoder = SegmentEncoder(HEADER)
    link = encoder.last_crc
    data = encoder.encode([PendingRecord(35, EFFECT, b"hello", 77)], first_seq=9)
    assert len(data) == 32 + 8  # 5 bytes, padded to 8
    length, crc, prev_crc, kind, schema, flags, seq, t_ns = unpack_from("<IIIHBBQQ", data)
    assert (length, prev_crc, kind, schema, seq, t_ns) == (5, link, 35, 0, 9, 77)
    assert flags == EFFECT | LAST_OF_WRITE
    assert data[32:] == b"hello\0\0\0"
    assert crc == crc32(data[:4] + data[8:], HEADER.salt)
    assert encoder.last_crc == crc


def test_only_the_last_record_of_a_write_carries_the_commit_mark() -> None:
    data, _ = segment_of([PendingRecord(35, EFFECT, b"x" * n, n) for n in range(20)])
    marks = [bool(record.flags & LAST_OF_WRITE) for record in SegmentReader(data, "s")]
    assert marks == [True] + [False] * 19 + [True]


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 95),
                st.sampled_from([INPUT, EFFECT, IGNORABLE]),
                st.binary(max_size=100),
                st.integers(0, 2**64 - 1),
            ),
            min_size=1,
            max_size=5,
        ),
        max_size=5,
    ),
    st.integers(0, 2**32 - 1),
    st.integers(1, 2**62),
)
def test_whatever_is_written_is_read(
    writes: list[list[tuple[int, int, bytes, int]]], salt: int, first_seq: int
) -> None:
    header = HEADER._replace(salt=salt, first_seq=first_seq)
    pending = [[PendingRecord(*record) for record in write] for write in writes]
    data, encoder = segment_of(*pending, header=header)
    reader = SegmentReader(data, "s")
    records = list(reader)[1:]
    flat = [record for write in pending for record in write]
    assert [(r.type, r.flags & ~LAST_OF_WRITE, r.payload, r.t_ns) for r in records] == flat
    assert [r.seq for r in records] == list(range(first_seq + 1, first_seq + 1 + len(flat)))
    assert reader.torn is None
    assert (reader.committed_length, reader.last_crc) == (len(data), encoder.last_crc)
    assert len(data) % 8 == 0


def test_a_length_is_checked_before_memory_is_taken() -> None:
    data = bytearray(segment_of()[0])
    for length in (MAX_PAYLOAD_BYTES + 1, 2**32 - 1, 1 << 20):
        data[HEADER_BYTES : HEADER_BYTES + 4] = pack("<I", length)
        assert read_record(memoryview(data), HEADER_BYTES, HEADER.salt) is None


def test_a_record_of_another_segment_never_validates() -> None:
    data, _ = segment_of([PendingRecord(35, EFFECT, b"payload", 1)])
    assert read_record(memoryview(data), HEADER_BYTES, HEADER.salt) is not None
    assert read_record(memoryview(data), HEADER_BYTES, HEADER.salt + 1) is None


@pytest.mark.parametrize("size", [0, 1, SNAPSHOT_PART_BYTES, 2 * SNAPSHOT_PART_BYTES + 5])
def test_a_snapshot_survives_being_cut_into_records(size: int) -> None:
    snapshot = bytes(i % 251 for i in range(size))
    assert join_snapshot(split_snapshot(snapshot)) == snapshot


def test_a_snapshot_with_a_missing_swapped_or_short_part_is_none() -> None:
    one, two = split_snapshot(bytes(SNAPSHOT_PART_BYTES + 1))
    for parts in ([], [one], [two], [two, one], [one, one], [one, two, two], [b"short"]):
        assert join_snapshot(parts) is None


def chain_of_segments(num_segments: int) -> list[bytes]:
    segments, header = [], HEADER
    for number in range(num_segments):
        data, encoder = segment_of(
            [PendingRecord(4, INPUT, b"i" * number, 9)] * (number + 1), header=header
        )
        segments.append(data)
        header = HEADER._replace(
            number=number + 1,
            first_seq=header.first_seq + number + 2,
            salt=number,
            previous_length=len(data),
            previous_crc=encoder.last_crc,
        )
    return segments


def check(segments: list[bytes]) -> None:
    check_order([check_segment(data, f"segment-{i}") for i, data in enumerate(segments)])


def test_consecutive_segments_are_accepted_from_whichever_is_the_first() -> None:
    segments = chain_of_segments(4)
    for first in range(4):
        check(segments[first:])


def test_a_missing_middle_segment_is_refused() -> None:
    one, _, three, _ = chain_of_segments(4)
    with pytest.raises(JournalDamaged, match="segment 1 of the run is missing"):
        check([one, three])


def test_a_segment_of_another_run_is_refused() -> None:
    one, two = chain_of_segments(2)
    header = decode_header(two, "s")._replace(run_id="another-run")
    foreign, _ = segment_of(header=header)
    with pytest.raises(JournalDamaged, match="belongs to run another-run, not to run 2026"):
        check([one, foreign])


def test_a_segment_cut_at_a_commit_mark_is_refused_by_its_seal() -> None:
    one, two, three = chain_of_segments(3)
    with pytest.raises(JournalDamaged, match="ends at offset .* with seq 1, but segment-1 was"):
        check([segment_of()[0], two, three])
    check([one, two, three])


def test_a_torn_tail_before_another_segment_is_refused_unless_a_gap_is_marked() -> None:
    one, two = chain_of_segments(2)
    with pytest.raises(JournalDamaged, match="segment-0, offset"):
        check([one + b"torn....", two])
    after_gap = decode_header(two, "s")._replace(flags=1, first_seq=40)
    check([one + b"torn....", segment_of(header=after_gap)[0]])
    with pytest.raises(JournalDamaged, match="starts before the segment before it ended"):
        check([one, segment_of(header=after_gap._replace(first_seq=2))[0]])


def test_a_segment_that_does_not_begin_with_meta_is_refused() -> None:
    encoder = SegmentEncoder(HEADER)
    data = encoder.header_bytes + encoder.encode([PendingRecord(4, INPUT, b"", 0)], 1)
    with pytest.raises(JournalDamaged, match="first record is not META"):
        check_segment(data, "s")
