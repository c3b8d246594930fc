"""What the records of the journal's own types say: META and CORE_FAILED.

They are msgpack maps with names, not arrays: a journal tells its own vocabulary, so that it can be
read without the code that wrote it.
"""

from enum import Enum
from typing import Any, Union, get_args, get_origin

import msgspec

from tokenreel.messages import journal
from tokenreel.messages.codec import Message


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The first record of every segment: what the run is, and how to read the rest.

    `source_hash` covers the files whose code decides (see docs/journal.md), `configuration` holds
    the fields of `actors.core.config.CoreConfig`, `facts` what was found out at start, such as the
    model's hash. `vocabulary` describes every message (`describe_vocabulary`).
    """

    version: str
    commit: str
    source_hash: bytes
    python: str
    logic_version: int
    configuration: dict[str, Any]
    facts: dict[str, Any]
    seeds: dict[str, int]
    vocabulary: dict[str, Any]


class CoreFailed(msgspec.Struct, frozen=True):
    """`Engine.apply` raised at the input before this record; the run ends here."""

    type_name: str
    message: str
    traceback: str


_encoder = msgspec.msgpack.Encoder()
_meta_decoder = msgspec.msgpack.Decoder(Meta)
_core_failed_decoder = msgspec.msgpack.Decoder(CoreFailed)


class MalformedRecord(ValueError):
    """A record of one of the journal's own types does not hold what its type promises."""


def encode_meta(meta: Meta) -> bytes:
    return _encoder.encode(meta)


def decode_meta(payload: bytes) -> Meta:
    try:
        return _meta_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecord(f"META: {error}") from error


def core_failed(error: Exception, traceback: str) -> CoreFailed:
    """What of an exception must come out alike when its input is applied again."""
    return CoreFailed(type(error).__qualname__, str(error), traceback)


def encode_core_failed(failure: CoreFailed) -> bytes:
    return _encoder.encode(failure)


def decode_core_failed(payload: bytes) -> CoreFailed:
    try:
        return _core_failed_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRecord(f"CORE_FAILED: {error}") from error


def describe_vocabulary() -> dict[str, Any]:
    """Every message with its tag and its fields in order, every struct, enum and alias that they
    are made of, and the numbers of the journal's own record types and flags."""
    described = _Vocabulary()
    described.visit(Message)
    return {
        "structs": described.structs,
        "enums": described.enums,
        "aliases": described.aliases,
        "record_types": _constants("META", "SNAPSHOT", "CORE_FAILED", "LOGPROBS", "RUN_ENDED"),
        "record_flags": _constants("INPUT", "EFFECT", "IGNORABLE", "LAST_OF_WRITE", "REDACTED"),
    }


def _constants(*names: str) -> dict[str, int]:
    return {name: getattr(journal, name) for name in names}


class _Vocabulary:
    """Walks types, from messages down to what their fields are made of."""

    def __init__(self) -> None:
        self.structs: dict[str, Any] = {}
        self.enums: dict[str, dict[str, int]] = {}
        self.aliases: dict[str, str] = {}

    def visit(self, a_type: Any) -> None:
        for argument in get_args(a_type):
            self.visit(argument)
        if hasattr(a_type, "__supertype__"):
            self.aliases[a_type.__name__] = _type_text(a_type.__supertype__)
        if not isinstance(a_type, type) or a_type.__name__ in self.structs:
            return
        if issubclass(a_type, Enum):
            self.enums[a_type.__name__] = {member.name: member.value for member in a_type}
        elif issubclass(a_type, msgspec.Struct):
            fields = [(field.name, field.type) for field in msgspec.structs.fields(a_type)]
            self._add(a_type.__name__, a_type.__struct_config__.tag, fields)
        elif issubclass(a_type, tuple) and hasattr(a_type, "_fields"):
            self._add(a_type.__name__, None, list(a_type.__annotations__.items()))

    def _add(self, name: str, tag: int | str | None, fields: list[tuple[str, Any]]) -> None:
        self.structs[name] = {
            "tag": tag,
            "fields": [[field, _type_text(a_type)] for field, a_type in fields],
        }
        for _, a_type in fields:
            self.visit(a_type)


def _type_text(a_type: Any) -> str:
    if a_type is None or a_type is type(None):
        return "None"
    if a_type is ...:
        return "..."
    origin, arguments = get_origin(a_type), [_type_text(a) for a in get_args(a_type)]
    if origin in (Union, type(int | str)):
        return " | ".join(arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(arguments)}]"
    return str(a_type.__name__)
