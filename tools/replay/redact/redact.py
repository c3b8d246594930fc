"""Makes a journal that may be shown to strangers: every decision of the run, nothing of its texts.

The run is executed twice side by side, with the recorded inputs and with the redacted ones. Unless
both decide alike at every event, there is no result.
"""

import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tokenreel.actors.core import snapshot as core_snapshot
from tokenreel.actors.core.config import CoreConfig
from tokenreel.messages.codec import CoreEvent, Effect, encode, tag_of
from tokenreel.messages.journal import (
    AFTER_GAP,
    CORE_FAILED,
    EFFECT,
    IGNORABLE,
    INPUT,
    LAST_OF_WRITE,
    LOGPROBS,
    RUN_ENDED,
    Record,
)
from tokenreel.messages.journal_meta import (
    CoreFailed,
    core_failed,
    decode_meta,
    encode_core_failed,
    encode_meta,
)
from tokenreel.messages.requests import AdmitRequest
from tokenreel.tools.replay.core_code import Core, CoreCode
from tokenreel.tools.replay.reading.events import decode_event
from tokenreel.tools.replay.reading.journal import Journal, open_journal
from tokenreel.tools.replay.reading.writing import Identity, RunWriter, run_meta
from tokenreel.tools.replay.redact.agreement import disagreement
from tokenreel.tools.replay.redact.clock import RedactedClock
from tokenreel.tools.replay.redact.fields import Unlisted, redacted
from tokenreel.tools.replay.redact.messages import Redaction
from tokenreel.tools.replay.redact.script import Chapter, chapters_of, decode_snapshot
from tokenreel.tools.replay.redact.survey import Survey, survey
from tokenreel.tools.replay.verify.verify import verify

KEY_BYTES = 32
PACKAGE = Path(__file__).resolve().parents[3]


class CannotRedact(Exception):
    """There is no redacted journal: it would not be what the original is. One line."""


class Redacted(NamedTuple):
    """What was written."""

    run_id: str
    num_records: int
    num_left_out: int
    """Records and inputs of types that nobody listed."""
    num_events: int
    num_steps: int
    num_requests: int
    num_bytes: int
    reproduced: CoreFailed | None


def redact(
    journal: Journal,
    out: Path,
    code: CoreCode,
    *,
    keeps_timing: bool = True,
    keeps_day: bool = True,
    key: bytes | None = None,
) -> Redacted:
    """Writes the run directory `out`, which must not exist; on any exception it does not after.

    `key` is for tests: who has it can undo the redaction. Raises CannotRedact, RunExists and
    JournalDamaged.
    """
    key = key or secrets.token_bytes(KEY_BYTES)
    verdict = verify(journal, code)
    if verdict.divergence is not None:
        raise CannotRedact(
            f"this code does not decide as the journal says (seq {verdict.divergence.seq}, "
            f"{verdict.divergence.path}); the code that recorded it can"
        )
    header = journal.segments[0].header
    clock = RedactedClock(
        header.monotonic_ns, header.wall_ns, keeps_timing=keeps_timing, keeps_day=keeps_day
    )
    config = next(chapters_of(journal)).configuration
    if config.vocab_size < 2:
        raise CannotRedact("in a vocabulary of one token there is nothing to stand in for it")
    identity = Identity(
        run_id=f"redacted-{secrets.token_hex(4)}",
        salt=secrets.randbits(32),
        wall_ns=clock.wall_ns,
        monotonic_ns=clock.at(header.monotonic_ns),
        epoch=header.epoch,
    )
    with RunWriter(out, _meta(config), identity, is_redacted=True) as writer:
        twins = _Twins(key, config, survey(journal), clock, code, writer)
        for chapter in chapters_of(journal):
            twins.enter(chapter)
            for record in chapter.records:
                twins.take(record, chapter.name)
        twins.compare_states()
        again = verify(open_journal(writer.complete()), code)
        if again.divergence is not None:
            raise CannotRedact(f"the result does not verify ({again.divergence.path})")
    return Redacted(
        run_id=identity.run_id,
        num_records=writer.num_records,
        num_left_out=twins.num_left_out,
        num_events=again.totals.num_events,
        num_steps=again.totals.num_steps,
        num_requests=twins.num_requests,
        num_bytes=writer.num_bytes,
        reproduced=again.reproduced,
    )


class _Twins:
    """Two cores, the original and the redacted, and the writer of what the second one does."""

    def __init__(
        self,
        key: bytes,
        config: CoreConfig,
        found: Survey,
        clock: RedactedClock,
        code: CoreCode,
        writer: RunWriter,
    ) -> None:
        self.num_left_out = 0
        self.num_requests = 0
        self._config = config
        self._code = code
        self._clock = clock
        self._writer = writer
        self._redaction = Redaction(key, config, found, clock)
        self._texts = iter(found.texts)
        self._original: Core | None = None
        self._redacted: Core | None = None
        self._effects: Iterator[Effect] = iter(())
        self._failure: CoreFailed | None = None
        self._place = "its start"

    def enter(self, chapter: Chapter) -> None:
        if chapter.configuration != self._config:
            raise CannotRedact(f"{chapter.name} has another configuration than those before it")
        snapshot = chapter.snapshot
        if chapter.restarts:
            self._original = self._redacted = self._failure = None
        if snapshot is not None and chapter.restarts:
            self._original = self._code.restore(self._config, snapshot)
            rewritten = self._redaction.snapshot(decode_snapshot(snapshot), next(self._texts))
            snapshot = core_snapshot.encode(rewritten)
            self._redacted = self._code.restore(self._config, snapshot)
            self._place = f"the snapshot of {chapter.name}"
        elif snapshot is not None:
            snapshot = self._cores()[1].snapshot()
        self.compare_states()
        self._writer.begin_segment(
            snapshot,
            self._at(chapter.header.monotonic_ns),
            number=chapter.header.number,
            first_seq=chapter.header.first_seq if chapter.restarts else None,
            flags=chapter.header.flags & AFTER_GAP,
        )

    def take(self, record: Record, segment: str) -> None:
        """One record; what stands for it goes to the writer, at the same place."""
        t_ns = self._at(record.t_ns)
        if record.flags & INPUT:
            self._place = f"seq {record.seq}"
            self._take_input(record, segment)
        elif record.flags & EFFECT:
            effect = next(self._effects)
            self._writer.append(tag_of(effect), EFFECT, encode(effect), t_ns)
        elif record.type == CORE_FAILED and self._failure is not None:
            self._writer.append(CORE_FAILED, 0, encode_core_failed(self._failure), t_ns)
        elif record.type == LOGPROBS:  # empty: it only keeps its place in the numbering
            self._writer.append(LOGPROBS, IGNORABLE, b"", t_ns)
        elif record.type == RUN_ENDED:
            self._writer.append(RUN_ENDED, 0, b"", t_ns)
        else:
            self.num_left_out += 1
        if record.flags & LAST_OF_WRITE:
            self._writer.commit()

    def compare_states(self) -> None:
        """Between two events, every field of both states."""
        if self._original is None or self._redacted is None or self._failure is not None:
            return
        self._require_agreement(
            decode_snapshot(self._original.snapshot()),
            decode_snapshot(self._redacted.snapshot()),
            subject="state",
        )

    def _take_input(self, record: Record, segment: str) -> None:
        event = decode_event(record, segment)
        original, redacted_core = self._cores()
        self._clock.tick(record.t_ns)
        effects, failure = _apply(original, event)
        try:
            rewritten = self._redaction.event(event, effects)
        except Unlisted:
            self.num_left_out += 1
            self._effects = iter(())
            if effects != []:
                raise CannotRedact(f"{self._place}: {type(event).__name__} is not listed") from None
            return
        their_effects, self._failure = _apply(redacted_core, rewritten)
        self._require_same_failure(failure, self._failure)
        self._require_agreement(effects or [], their_effects or [], subject=type(event).__name__)
        self._effects = iter(their_effects or [])
        self.num_requests += isinstance(event, AdmitRequest)
        self._writer.append(tag_of(rewritten), INPUT, encode(rewritten), self._at(record.t_ns))

    def _cores(self) -> tuple[Core, Core]:
        if self._original is None or self._redacted is None:
            self._original = self._code.create(self._config)
            self._redacted = self._code.create(self._config)
        return self._original, self._redacted

    def _at(self, t_ns: int) -> int:
        """As a record can hold it."""
        return max(0, self._clock.at(t_ns))

    def _require_agreement(self, original: Any, rewritten: Any, subject: str) -> None:
        path = disagreement(original, rewritten, self._redaction.key_of)
        if path is not None:
            raise CannotRedact(
                f"with stand-ins the core decides otherwise at {self._place}: {subject}{path}"
            )

    def _require_same_failure(self, one: CoreFailed | None, other: CoreFailed | None) -> None:
        """The message may name what was redacted; it is written as the redacted core has it."""
        if (one and one.type_name) != (other and other.type_name):
            raise CannotRedact(f"with stand-ins the core fails otherwise at {self._place}")


def _apply(core: Core, event: CoreEvent) -> tuple[list[Effect] | None, CoreFailed | None]:
    try:
        return core.apply(event), None
    except Exception as error:
        return None, core_failed(error, _where(error))


def _where(error: Exception) -> str:
    """A traceback that names files by their place in the package, and shows no line of them."""
    frames = [
        f'  File "{_place_in_package(frame.filename)}", line {frame.lineno}, in {frame.name}'
        for frame in traceback.extract_tb(error.__traceback__)[1:]
    ]
    told = [f"{type(error).__qualname__}: {error}"]
    return "\n".join(["Traceback (most recent call last):", *frames, *told])


def _place_in_package(filename: str) -> str:
    path = Path(filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else "(elsewhere)"


def _meta(config: CoreConfig) -> bytes:
    """What this code is, and nothing of the machine that it runs on."""
    meta = decode_meta(run_meta(config))
    configuration = msgspec.structs.asdict(redacted(config))
    return encode_meta(redacted(meta, configuration=configuration))
