"""A journal can be read without the code that wrote it: META tells the whole vocabulary."""

from typing import get_args

import msgspec
import pytest

from tokenreel.messages.codec import Message
from tokenreel.messages.journal_meta import (
    MalformedRecord,
    Meta,
    core_failed,
    decode_core_failed,
    decode_meta,
    describe_vocabulary,
    encode_core_failed,
    encode_meta,
)
from tokenreel.messages.steps import ScheduledSequence, StepScheduled

META = Meta(
    version="1.2",
    commit="abc",
    source_hash=b"\x01\x02",
    python="3.11",
    logic_version=3,
    configuration={"block_size": 16},
    facts={"model_hash": b"\xff"},
    seeds={"engine": 0},
    vocabulary=describe_vocabulary(),
)


def test_meta_comes_back_as_it_was_and_reads_without_its_class() -> None:
    assert decode_meta(encode_meta(META)) == META
    plain = msgspec.msgpack.decode(encode_meta(META))
    assert plain["configuration"] == {"block_size": 16}
    assert plain["facts"] == {"model_hash": b"\xff"}


def test_the_vocabulary_names_every_field_of_every_message() -> None:
    structs = describe_vocabulary()["structs"]
    for message in get_args(Message):
        described = structs[message.__name__]
        assert described["tag"] == message.__struct_config__.tag
        assert [name for name, _ in described["fields"]] == list(message.__struct_fields__)


def test_the_vocabulary_explains_nested_types_down_to_plain_ones() -> None:
    vocabulary = describe_vocabulary()
    fields = dict(vocabulary["structs"]["StepScheduled"]["fields"])
    assert fields["scheduled"] == "list[ScheduledSequence]"
    assert vocabulary["aliases"]["SeqId"] == "int"
    assert vocabulary["enums"]["FinishReason"]["LENGTH"] == 1
    assert vocabulary["structs"]["RequestKey"]["fields"] == [
        ["frontend_epoch", "int"],
        ["number", "int"],
    ]


def test_a_payload_is_readable_with_the_vocabulary_alone() -> None:
    message = StepScheduled(7, [], [3], [ScheduledSequence(1, 0, 5, 2, 1, [9])])  # type: ignore[arg-type,list-item]
    structs = msgspec.msgpack.decode(encode_meta(META))["vocabulary"]["structs"]
    tag, *values = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    name = next(name for name, described in structs.items() if described["tag"] == tag)
    fields = [field for field, _ in structs[name]["fields"]]
    assert (name, dict(zip(fields, values, strict=True))["step_id"]) == ("StepScheduled", 7)


def test_a_failure_comes_back_as_it_was() -> None:
    failure = core_failed(ValueError("no such block: 7"), "Traceback ...")
    assert (failure.type_name, failure.message) == ("ValueError", "no such block: 7")
    assert decode_core_failed(encode_core_failed(failure)) == failure


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x80", b"\x81\xa1", b"\xa1\xff", b"\x91" * 5000]
)
def test_bytes_that_are_no_such_record_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedRecord, match="META"):
        decode_meta(payload)
    with pytest.raises(MalformedRecord, match="CORE_FAILED"):
        decode_core_failed(payload)
