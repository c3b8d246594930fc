"""Every field of everything that a journal holds is listed; what is not, stays at home."""

from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args

import msgspec
import pytest

from tokenreel.actors.core.snapshot import Snapshot
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.journal_meta import Meta
from tokenreel.tools.replay.redact.fields import FIELDS, Treatment, Unlisted, redacted

RECORDED = (CoreEvent, Effect, Snapshot, Meta)


def structs_in(a_type: Any) -> Iterator[type]:
    """The structs and named tuples that values of this type are made of, itself included."""
    for argument in get_args(a_type):
        yield from structs_in(argument)
    if not isinstance(a_type, type) or a_type in (list, dict, tuple):
        return
    if issubclass(a_type, msgspec.Struct):
        yield a_type
        for field in msgspec.structs.fields(a_type):
            yield from structs_in(field.type)
    elif issubclass(a_type, tuple):
        yield a_type


def types_in(a_type: Any) -> Iterator[type]:
    arguments = get_args(a_type)
    for argument in arguments:
        yield from types_in(argument)
    if not arguments:
        yield getattr(a_type, "__supertype__", a_type)


STRUCTS = {struct.__name__: struct for kind in RECORDED for struct in structs_in(kind)}
INPUTS = {struct.__name__ for struct in structs_in(CoreEvent)}


def fields_of(struct: type) -> dict[str, Any]:
    if issubclass(struct, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(struct)}
    return dict(struct.__annotations__)


def test_the_list_is_the_vocabulary() -> None:
    """If this fails you have added a message or a field: decide in FIELDS whether strangers may
    see it. Until then it is left out of redacted journals."""
    found = {name: sorted(fields_of(struct)) for name, struct in STRUCTS.items()}
    assert found == {name: sorted(listed) for name, listed in FIELDS.items()}


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_what_an_input_keeps_is_numbers(name: str) -> None:
    """Whatever a client can put words or names into is mapped or dropped."""
    for field, a_type in fields_of(STRUCTS[name]).items():
        if FIELDS[name][field] is Treatment.KEPT:
            for kind in types_in(a_type):
                assert kind in (int, ..., type(None)) or issubclass(kind, Enum), f"{name}.{field}"


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_only_structs_are_inner(name: str) -> None:
    for field, a_type in fields_of(STRUCTS[name]).items():
        has_structs = any(issubclass(s, msgspec.Struct) for s in structs_in(a_type))
        treatment = FIELDS[name][field]
        assert treatment is not Treatment.INNER or has_structs, f"{name}.{field}"
        assert treatment is not Treatment.KEPT or not has_structs, f"{name}.{field}"


def test_a_field_that_nobody_has_listed_is_left_out() -> None:
    grown = msgspec.defstruct(
        "AbortRequest",
        [("key", RequestKey), ("user", str, "nobody"), ("tags", list[str], [])],
        array_like=True,
        tag=3,
    )
    message = grown(RequestKey(7, 7), "alice", ["secret"])  # type: ignore[call-arg]

    copy = redacted(message, key=RequestKey(1, 1))

    assert copy == grown(RequestKey(1, 1), "nobody", [])  # type: ignore[call-arg]


def test_a_field_without_default_that_nobody_has_listed_is_emptied() -> None:
    grown = msgspec.defstruct("StepBegan", [("step_id", int), ("host", str)])

    assert redacted(grown(4, "alice.example")) == grown(4, "")  # type: ignore[call-arg]


def test_a_message_that_nobody_has_listed_is_refused() -> None:
    loaded = msgspec.defstruct("LoraLoaded", [("name", str)])

    with pytest.raises(Unlisted):
        redacted(loaded("alice's"))  # type: ignore[call-arg]
