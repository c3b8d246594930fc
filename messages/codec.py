"""Messages to bytes and back: msgpack arrays whose first element is the message's integer tag.

Tags below 32 reach the core (journaled inputs), 32 to 63 are its effects, 64 and up never meet it.
A tag is never given to another message, and fields are only ever appended.
"""

import msgspec

from tokenreel.messages.lifecycle import (
    ActorDied,
    ActorFailed,
    ActorReady,
    Drained,
    DrainRequested,
    EngineFacts,
    Serving,
    Shutdown,
    SystemReady,
    WorkerReady,
)
from tokenreel.messages.outputs import (
    OutputDelivered,
    SequenceFinished,
    StopStringMatched,
    TextEmitted,
    TokensEmitted,
)
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
    RequestRejected,
    SubmitRequest,
)
from tokenreel.messages.steps import (
    SequencePreempted,
    StepBegan,
    StepCompleted,
    StepDecided,
    StepScheduled,
)

CoreEvent = (
    AdmitRequest | AbortRequest | StepBegan | StepCompleted | StopStringMatched | OutputDelivered
)
"""What `Engine.apply` takes."""

Effect = (
    RequestAdmitted
    | RequestRejected
    | RequestFinished
    | StepScheduled
    | StepDecided
    | SequencePreempted
    | TokensEmitted
    | SequenceFinished
)
"""What `Engine.apply` returns."""

Lifecycle = (
    WorkerReady
    | EngineFacts
    | ActorReady
    | ActorFailed
    | SystemReady
    | Serving
    | DrainRequested
    | Drained
    | ActorDied
    | Shutdown
)

Message = SubmitRequest | TextEmitted | CoreEvent | Effect | Lifecycle

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class MalformedMessage(ValueError):
    """These bytes are no message of ours. Whoever meets it counts the frame and drops it."""


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Raises `MalformedMessage` on an unknown tag, a wrong type or bytes that are not msgpack."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from error


def tag_of(message: Message) -> int:
    """The integer tag of a message, which is also its record type in a journal."""
    tag = message.__struct_config__.tag
    assert isinstance(tag, int)
    return tag
