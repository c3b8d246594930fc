"""Tokens of many sequences to the text chunks that clients get, and to the stops they caused.

One chunk leaves for every batch of tokens that a sequence gets, also when its text is empty (part
of a character; something that may become a stop string): clients count chunks as tokens, and
usage goes on.
"""

import traceback
from typing import NamedTuple

import msgspec

from tokenreel.actors.text.sequence_text import SequenceText
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.ids import RequestKey, SeqId
from tokenreel.messages.logprobs import SequenceLogprobs
from tokenreel.messages.outputs import SequenceTokens, StopStringMatched, TextChunk, TokenLogprob
from tokenreel.messages.requests import RequestAdmitted
from tokenreel.messages.sampling import FinishReason


class Outcome(NamedTuple):
    """What follows from what came in; to be sent in this order."""

    chunks: list[TextChunk]
    matches: list[StopStringMatched]
    delivered: list[SeqId]
    """Sequences whose last text is in `chunks`, or has left before."""


class AssemblerStatistics(msgspec.Struct, frozen=True):
    num_sequences: int
    """Sequences that may still get text."""
    num_awaiting_finish: int
    """Sequences whose text has ended here and that the core has not finished yet."""
    num_tokens: int
    num_chars: int
    num_stop_strings: int
    num_repeated_tokens: int
    """Tokens dropped because they had come before."""
    num_gaps: int
    """Sequences ended because tokens of theirs never came."""
    num_failures: int
    """Sequences ended by an unexpected exception."""
    num_unknown: int
    """Entries dropped because their sequence is not known, or was announced twice."""


class _Choice:
    """One sequence, and whose choice it is."""

    __slots__ = ("includes_stop", "index", "key", "text")

    def __init__(
        self, key: RequestKey, index: int, text: SequenceText, includes_stop: bool
    ) -> None:
        self.key = key
        self.index = index
        self.text = text
        self.includes_stop = includes_stop

    def chunk(
        self,
        text: str,
        entry: SequenceTokens,
        reason: FinishReason | None,
        stop_reason: int | str | None,
        logprobs: list[TokenLogprob] | None,
        error: str = "",
    ) -> TextChunk:
        """The chunk for text that `self.text` has just let go."""
        return TextChunk(
            self.key,
            self.index,
            self.text.num_chars - len(text),
            text,
            self.text.num_tokens,
            reason,
            stop_reason,
            logprobs,
            entry.num_cached_tokens,
            error,
        )


class OutputAssembler:
    """What it knows of a sequence goes when the core has finished it: the core bounds their
    number."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._choices: dict[SeqId, _Choice] = {}
        self._awaiting_finish: set[SeqId] = set()
        self._num_tokens = 0
        self._num_chars = 0
        self._num_stop_strings = 0
        self._num_repeated = 0
        self._num_gaps = 0
        self._num_failures = 0
        self._num_unknown = 0

    def admit(self, admitted: RequestAdmitted, outcome: Outcome) -> None:
        params = admitted.text
        for index, seq_id in enumerate(admitted.seq_ids):
            if seq_id in self._choices or seq_id in self._awaiting_finish:
                self._num_unknown += 1
                continue
            try:
                detokenizer = self._tokenizer.detokenizer(
                    params.prompt_tail, skip_special_tokens=params.skip_special_tokens
                )
                text = SequenceText(detokenizer, params)
            except Exception as error:  # It concerns this request, so it ends this request only.
                self._awaiting_finish.add(seq_id)
                outcome.chunks.append(self._failure(error, admitted.key, index))
                continue
            self._choices[seq_id] = _Choice(
                admitted.key, index, text, params.include_stop_str_in_output
            )

    def take(
        self,
        entries: list[SequenceTokens],
        logprobs: dict[SeqId, SequenceLogprobs],
        outcome: Outcome,
    ) -> None:
        """`logprobs` holds those of the same step."""
        for entry in entries:
            seq_id = entry.seq_id
            choice = self._choices.get(seq_id)
            if choice is not None:
                num_chars = choice.text.num_chars
                try:
                    chunk = self._advance(choice, entry, logprobs.get(seq_id), outcome)
                except Exception as error:  # As above.
                    chunk = self._failure(error, choice.key, choice.index, num_chars)
                outcome.chunks.append(chunk)
                self._num_chars += len(chunk.text)
                if chunk.finish_reason is not None:
                    del self._choices[seq_id]
                    self._awaiting_finish.add(seq_id)
            elif seq_id not in self._awaiting_finish:
                self._num_unknown += 1
            if entry.finish_reason is not None:
                # Also for a sequence unknown here, or the core would keep it for ever.
                self._awaiting_finish.discard(seq_id)
                outcome.delivered.append(seq_id)

    def statistics(self) -> AssemblerStatistics:
        return AssemblerStatistics(
            num_sequences=len(self._choices),
            num_awaiting_finish=len(self._awaiting_finish),
            num_tokens=self._num_tokens,
            num_chars=self._num_chars,
            num_stop_strings=self._num_stop_strings,
            num_repeated_tokens=self._num_repeated,
            num_gaps=self._num_gaps,
            num_failures=self._num_failures,
            num_unknown=self._num_unknown,
        )

    def _advance(
        self,
        choice: _Choice,
        entry: SequenceTokens,
        logprobs: SequenceLogprobs | None,
        outcome: Outcome,
    ) -> TextChunk:
        text, token_ids = choice.text, entry.token_ids
        num_seen = text.num_tokens - entry.first_output_index
        if num_seen < 0:
            return self._gap(choice, entry)
        if num_seen:
            self._num_repeated += min(num_seen, len(token_ids))
            token_ids = token_ids[num_seen:]
        num_before = text.num_tokens
        reason = entry.finish_reason
        stop_reason: int | str | None = None
        if reason is None:
            new_text = text.push(token_ids)
        else:
            new_text, stop_reason = self._finish(choice, reason, token_ids)
        if text.matched is not None:
            num_matched = text.num_tokens
            end = entry.first_output_index + len(entry.token_ids)
            if reason is None or num_matched < end:
                outcome.matches.append(StopStringMatched(entry.seq_id, num_matched))
            self._num_stop_strings += 1
            reason, stop_reason = FinishReason.STOP, text.matched
        num_new = text.num_tokens - num_before
        self._num_tokens += num_new
        described = (
            None if logprobs is None else self._describe(logprobs, token_ids[:num_new], num_seen)
        )
        return choice.chunk(new_text, entry, reason, stop_reason, described, entry.error)

    def _finish(
        self, choice: _Choice, reason: FinishReason, token_ids: list[int]
    ) -> tuple[str, int | None]:
        """The text of the last tokens, and the stop token if a client named it."""
        text = choice.text
        if reason is not FinishReason.STOP or not token_ids:
            return text.push(token_ids) + text.finish(), None
        stop_token = token_ids[-1]
        if choice.includes_stop:
            new_text = text.push(token_ids)
        else:
            new_text = text.push(token_ids[:-1])
            if text.matched is None:
                text.push_silent()
        is_eos = stop_token in self._tokenizer.eos_token_ids
        return new_text + text.finish(), None if is_eos else stop_token

    def _gap(self, choice: _Choice, entry: SequenceTokens) -> TextChunk:
        """The client sees what came before, and an error; it, or its frontend, gives up then."""
        self._num_gaps += 1
        first, last = choice.text.num_tokens, entry.first_output_index - 1
        error = f"output tokens {first} to {last} were lost on the way to the detokenizer"
        return choice.chunk("", entry, FinishReason.ERROR, None, None, error)

    def _failure(
        self, error: Exception, key: RequestKey, index: int, num_chars: int = 0
    ) -> TextChunk:
        self._num_failures += 1
        traceback.print_exception(error)
        message = f"detokenization failed: {type(error).__name__}: {error}"
        return TextChunk(
            key, index, num_chars, "", 0, finish_reason=FinishReason.ERROR, error=message
        )

    def _describe(
        self, logprobs: SequenceLogprobs, token_ids: list[int], num_skipped: int
    ) -> list[TokenLogprob]:
        """One entry for every token that counts, stop tokens included."""
        token_text = self._tokenizer.token_text
        described = []
        for place, token_id in enumerate(token_ids, num_skipped):
            if place >= len(logprobs.sampled):
                break
            top = []
            rivals = zip(logprobs.top_ids[place], logprobs.top[place], strict=True)
            for rival_id, rival_logprob in rivals:
                text, data = token_text(rival_id)
                top.append((text, rival_logprob, data))
            text, data = token_text(token_id)
            described.append(TokenLogprob(text, logprobs.sampled[place], data, top))
        return described
