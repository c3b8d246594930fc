"""Rewrites one journal's inputs and states with stand-ins, each where the original one stood.

What a list of fields cannot say is said here: where each sequence's text stands, which tokens the
core commits, how block hashes follow from tokens. Nothing is re-executed here.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.digest import CACHE, SEQUENCES
from tokenreel.actors.core.prefix_cache import cache_term
from tokenreel.actors.core.sequence import Request, Sequence
from tokenreel.actors.core.snapshot import Snapshot
from tokenreel.actors.core.stopping import finish_reason
from tokenreel.messages.block_hash import chain
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId
from tokenreel.messages.outputs import SequenceTokens, TokensEmitted
from tokenreel.messages.requests import (
    AbortRequest,
    AdmitRequest,
    RequestAdmitted,
    RequestFinished,
)
from tokenreel.messages.sampling import MASK_64, FinishReason, StoppingParams
from tokenreel.messages.steps import SampledTokens, StepCompleted
from tokenreel.tools.replay.redact.clock import RedactedClock
from tokenreel.tools.replay.redact.fields import redacted
from tokenreel.tools.replay.redact.survey import Survey, Text, ranks
from tokenreel.tools.replay.redact.tokens import StandIns, State, free_id

REDACTED_TEXT = "redacted"


class Continuation(NamedTuple):
    """Where the text of a sequence stands, and when it would end."""

    state: State
    num_outputs: int
    stopping: StoppingParams


class Redaction:
    """The mapping of one journal. `key` is secret and as good as thrown away afterwards."""

    def __init__(
        self, key: bytes, config: CoreConfig, survey: Survey, clock: RedactedClock
    ) -> None:
        self._key = key
        self._config = config
        self._clock = clock
        self._epochs = ranks(survey.epochs)
        self._numbers = ranks(survey.numbers)
        self._priorities = ranks(survey.priorities)
        stop_id = free_id(key, config.vocab_size, survey.token_ids)
        self._stand_ins = StandIns(key, config.vocab_size, stop_id)
        self._continuations: dict[SeqId, Continuation] = {}
        self._seq_ids: dict[RequestKey, tuple[SeqId, ...]] = {}

    def key_of(self, key: RequestKey) -> RequestKey:
        return RequestKey(self._epochs[key.frontend_epoch], self._numbers[key.number])

    def event(self, event: CoreEvent, effects: list[Effect] | None) -> CoreEvent:
        """The input that stands for `event`. `effects` are what the original core made of it; None
        if it raised. Raises Unlisted."""
        match event:
            case AdmitRequest():
                rewritten: CoreEvent = self._admit(event, effects or [])
            case AbortRequest():
                rewritten = redacted(event, key=self.key_of(event.key))
            case StepCompleted():
                rewritten = self._step_completed(event, effects)
            case _:
                rewritten = redacted(event)
        for effect in effects or []:
            if isinstance(effect, RequestFinished):
                for seq_id in self._seq_ids.pop(effect.key, ()):
                    self._continuations.pop(seq_id, None)
        return rewritten

    def snapshot(self, snapshot: Snapshot, texts: Iterable[Text]) -> Snapshot:
        """The state that stands for one that the core starts from. `texts` are all that the
        journal shows from there on: of what else the cache holds, nothing will ever be found."""
        self._continuations.clear()
        self._seq_ids = {request.key: request.seq_ids for request in snapshot.requests}
        sequences = [self._sequence(sequence) for sequence in snapshot.sequences]
        links = self._links({link for _, link in snapshot.cache}, texts)
        cache = [(block, links.get(link, self._root(link))) for block, link in snapshot.cache]
        digest = list(snapshot.digest)
        for old, new in zip(snapshot.sequences, sequences, strict=True):
            digest[SEQUENCES] += new.sequence_term - old.sequence_term
        for (block, old_link), (_, new_link) in zip(snapshot.cache, cache, strict=True):
            digest[CACHE] += cache_term(new_link, block) - cache_term(old_link, block)
        return redacted(
            snapshot,
            requests=[self._request(request) for request in snapshot.requests],
            sequences=sequences,
            cache=cache,
            tombstones=[self.key_of(key) for key in snapshot.tombstones],
            last_numbers=[
                tuple(self.key_of(RequestKey(*number))) for number in snapshot.last_numbers
            ],
            digest=tuple(part & MASK_64 for part in digest),
        )

    # Inputs.

    def _admit(self, event: AdmitRequest, effects: list[Effect]) -> AdmitRequest:
        domain = self._domain(event.key, event.cache_root)
        tokens, state, links = self._text(
            domain, event.cache_root, event.prompt_token_ids, event.block_hashes
        )
        for effect in effects:
            if isinstance(effect, RequestAdmitted):
                self._seq_ids[event.key] = effect.seq_ids
                for seq_id in effect.seq_ids:
                    self._continuations[seq_id] = Continuation(state, 0, event.stopping)
        return redacted(
            event,
            key=self.key_of(event.key),
            prompt_token_ids=tokens,
            stopping=self._stopping(event.stopping),
            priority=self._priorities[event.priority],
            cache_root=self._root(event.cache_root),
            block_hashes=links,
        )

    def _step_completed(self, event: StepCompleted, effects: list[Effect] | None) -> StepCompleted:
        committed = None if effects is None else _committed_by(effects)
        last = {output.seq_id: index for index, output in enumerate(event.outputs)}
        outputs = []
        for index, output in enumerate(event.outputs):
            counts = last[output.seq_id] == index  # the core looks at no other
            tokens = self._outputs(output, committed) if counts else self._fillers(output.token_ids)
            outputs.append(redacted(output, token_ids=tokens))
        failures = [
            redacted(failure, message=REDACTED_TEXT if failure.message else "")
            for failure in event.failures
        ]
        began_ns, ended_ns = self._clock.at_worker(event.began_ns, event.ended_ns)
        return redacted(
            event, outputs=outputs, failures=failures, began_ns=began_ns, ended_ns=ended_ns
        )

    def _outputs(
        self, output: SampledTokens, committed: dict[SeqId, SequenceTokens] | None
    ) -> list[int]:
        """The stand-ins of what a worker sampled for one sequence."""
        text = self._continuations.get(output.seq_id)
        if text is None:
            return self._fillers(output.token_ids)
        if committed is None:
            return self._last_outputs(output, text)
        taken = committed.get(output.seq_id)
        num_taken = len(taken.token_ids) if taken is not None else 0
        tokens, state = [], text.state
        for token_id in output.token_ids[:num_taken]:
            stand_in, state = self._stand_ins.token(state, token_id)
            tokens.append(stand_in)
        if taken is not None and taken.finish_reason is FinishReason.STOP:
            tokens[-1] = self._stand_ins.stop_id
        self._continuations[output.seq_id] = Continuation(
            state, text.num_outputs + num_taken, text.stopping
        )
        return tokens + self._fillers(output.token_ids[num_taken:])

    def _last_outputs(self, output: SampledTokens, text: Continuation) -> list[int]:
        """The core failed here, and did not say what it would have made of this."""
        if len(output.token_ids) != 1:
            return self._fillers(output.token_ids)
        token_id = output.token_ids[0]
        reason = finish_reason(text.stopping, text.num_outputs + 1, token_id)
        if reason is FinishReason.STOP:
            return [self._stand_ins.stop_id]
        return [self._stand_ins.token(text.state, token_id)[0]]

    def _fillers(self, token_ids: list[int]) -> list[int]:
        return [self._stand_ins.filler(token_id) for token_id in token_ids]

    # States.

    def _request(self, request: Request) -> Request:
        return redacted(request, key=self.key_of(request.key))

    def _sequence(self, sequence: Sequence) -> Sequence:
        domain = self._domain(sequence.key, sequence.cache_root)
        tokens, state, links = self._text(
            domain, sequence.cache_root, sequence.token_ids, sequence.hashes
        )
        num_outputs = sequence.num_outputs
        self._continuations[sequence.seq_id] = Continuation(state, num_outputs, sequence.stopping)
        level, arrival, index = sequence.order
        rewritten = redacted(
            sequence,
            key=self.key_of(sequence.key),
            order=(self._priorities[level], arrival, index),
            token_ids=tokens[: sequence.num_prompt_tokens],
            stopping=self._stopping(sequence.stopping),
            cache_root=self._root(sequence.cache_root),
            hashes=links,
            token_hash=0,
            sequence_term=0,
        )
        for token_id in tokens[sequence.num_prompt_tokens :]:
            rewritten.append_token(token_id)
        rewritten.sequence_term = rewritten.expected_sequence_term()
        return rewritten

    # Hashes and other names.

    def _domain(self, key: RequestKey, cache_root: BlockHash) -> bytes:
        """Within which equal texts may be seen to be equal: that of the prefix cache; without one,
        each request is for itself."""
        if self._config.enable_prefix_caching:
            return b"root" + cache_root
        return b"request %d/%d" % key

    def _root(self, link: BlockHash) -> BlockHash:
        """Another name for a root, or for a link of which nobody knows what it stands for."""
        if not link:
            return link
        person = b"tokenreel-roots"
        return BlockHash(blake2b(link, digest_size=16, key=self._key, person=person).digest())

    def _text(
        self, domain: bytes, root: BlockHash, token_ids: list[int], links: list[BlockHash]
    ) -> tuple[list[int], State, list[BlockHash]]:
        """The stand-ins of a text that `links` name, where it stands after them, and new links.

        Where those are no chain over their tokens, which is somebody's bug, equal ones stay equal,
        and so does what follows them.
        """
        size = self._config.block_size
        num_named = len(links) * size
        tokens, state = self._stand_ins.text(self._stand_ins.start(domain), token_ids)
        if not links or self._is_chain(root, token_ids[:num_named], links):
            new_links = chain(self._root(root), tokens[:num_named], size) if links else []
            return tokens, state, new_links
        behind = self._stand_ins.start(b"link" + links[-1])
        tail, state = self._stand_ins.text(behind, token_ids[num_named:])
        return tokens[:num_named] + tail, state, [self._root(link) for link in links]

    def _is_chain(self, root: BlockHash, token_ids: list[int], links: list[BlockHash]) -> bool:
        if not all(0 <= token_id < self._config.vocab_size for token_id in token_ids):
            return False
        return chain(root, token_ids, self._config.block_size) == links

    def _links(self, wanted: set[BlockHash], texts: Iterable[Text]) -> dict[BlockHash, BlockHash]:
        """What becomes of the `wanted` links, as far as any of the texts leads to them."""
        found: dict[BlockHash, BlockHash] = {}
        size = self._config.block_size
        for key, root, old in texts:
            if not root:
                continue
            start = self._stand_ins.start(self._domain(key, root))
            new, _ = self._stand_ins.text(start, old)
            pairs = zip(chain(root, old, size), chain(self._root(root), new, size), strict=True)
            found.update((link, stand_in) for link, stand_in in pairs if link in wanted)
        return found

    def _stopping(self, stopping: StoppingParams) -> StoppingParams:
        return redacted(stopping, stop_token_ids=(self._stand_ins.stop_id,))


def _committed_by(effects: list[Effect]) -> dict[SeqId, SequenceTokens]:
    return {
        tokens.seq_id: tokens
        for effect in effects
        if isinstance(effect, TokensEmitted)
        for tokens in effect.sequences
        if tokens.token_ids
    }
