"""What a sequence puts out: tokens from the core, text from the detokenizer, ends from both."""

import msgspec

from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.sampling import FinishReason


class SequenceTokens(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """New committed tokens of one sequence. `first_output_index` counts from 0 over the sequence's
    output, so that a receiver can drop an overlap and notice a gap. With `finish_reason` set these
    are the last tokens; with STOP the last one is a stop token, which is no text."""

    seq_id: SeqId
    first_output_index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache when the sequence first ran."""
    error: str = ""


class TokensEmitted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """engine core -> detokenizer: everything that one event committed. A step's log-probabilities
    travel beside it as an attachment (`messages.logprobs`)."""

    sequences: list[SequenceTokens]


class SequenceFinished(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """For the journal: a sequence ended with `num_output_tokens` tokens. A stop string that matched
    earlier may still shorten it: the finish with the smallest output index wins."""

    seq_id: SeqId
    reason: FinishReason
    num_output_tokens: int


class StopStringMatched(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """detokenizer -> engine core, journaled: a stop string is complete in the text of the first
    `num_output_tokens` output tokens. The detokenizer has already stopped by itself."""

    seq_id: SeqId
    num_output_tokens: int


class OutputDelivered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """detokenizer -> engine core, journaled: the last text of these sequences has left."""

    seq_ids: tuple[SeqId, ...]


TokenBytes = bytes
"""UTF-8 of a token's text, or the bytes of a part of a character."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One output token's natural-log probability, as text for the client, and its rivals."""

    token: str
    logprob: float
    bytes: TokenBytes
    top: list[tuple[str, float, TokenBytes]]


class TextChunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """New text of one choice. `char_offset` is where it starts in the choice's whole text, and
    `num_tokens` the output tokens that the text up to its end stands for. With `finish_reason` set
    it is the last. `stop_reason` is the stop string or stop token id that matched, if one did."""

    key: RequestKey
    choice: int
    char_offset: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    num_cached_tokens: int = 0
    error: str = ""


class TextEmitted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """detokenizer -> frontend: one message per batch of tokens, whatever the number of choices."""

    chunks: list[TextChunk]
