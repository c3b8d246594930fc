"""Log-probabilities beside a step's tokens: opaque to the core, decoded by the detokenizer."""

import msgspec

from tokenreel.messages.ids import SeqId


class SequenceLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """For each token that a step sampled for one sequence: its own log-probability, then the most
    likely ids and theirs, best first. Natural logarithm of the softmax of the raw logits, before
    penalties, temperature and filters (vLLM's default, `raw_logprobs`)."""

    seq_id: SeqId
    sampled: list[float]
    top_ids: list[list[int]]
    top: list[list[float]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[SequenceLogprobs])


def encode_logprobs(entries: list[SequenceLogprobs]) -> bytes:
    """The attachment of a `StepCompleted`; empty bytes if there is nothing to say."""
    return _encoder.encode(entries) if entries else b""


def decode_logprobs(attachment: bytes) -> list[SequenceLogprobs]:
    """Raises `msgspec.MsgspecError` on bytes that are no such attachment."""
    return _decoder.decode(attachment) if attachment else []
