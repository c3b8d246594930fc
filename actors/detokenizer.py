"""The detokenizer's shell: tokens in, text out; it tells the core what stopped and what was sent.

Text leaves before its delivery is reported, and a stop string is reported before that.
"""

from pathlib import Path

import msgspec

from tokenreel.actors.runtime.actor import Actor, ActorRuntime, StartError, run_actor
from tokenreel.actors.runtime.channels import Frame
from tokenreel.actors.runtime.topology import role_of
from tokenreel.actors.text.model_files import ModelFilesError
from tokenreel.actors.text.output_assembler import AssemblerStatistics, Outcome, OutputAssembler
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.ids import SeqId
from tokenreel.messages.lifecycle import EngineFacts
from tokenreel.messages.logprobs import SequenceLogprobs, decode_logprobs
from tokenreel.messages.outputs import OutputDelivered, TextEmitted, TokensEmitted
from tokenreel.messages.requests import RequestAdmitted


class DetokenizerStatistics(msgspec.Struct, frozen=True):
    output: AssemblerStatistics
    num_frames: int
    num_dropped_frames: int
    """Frames that hold no message meant for a detokenizer."""
    num_dropped_attachments: int
    """Log-probabilities that could not be read; their tokens were served without."""


class DetokenizerActor(Actor):
    ROLE = "detokenizer"
    DESTINATIONS = ("frontend", "engine_core")

    def __init__(self, runtime: ActorRuntime) -> None:
        super().__init__(runtime)
        self._assembler: OutputAssembler | None = None
        self._num_frames = 0
        self._num_dropped = 0
        self._num_dropped_attachments = 0

    def start(self) -> None:
        try:
            tokenizer = ModelTokenizer.load(Path(self.runtime.options.model))
        except ModelFilesError as error:
            raise StartError(str(error)) from error
        self._assembler = OutputAssembler(tokenizer)
        self.runtime.ready(f"{tokenizer.vocab_size} tokens")

    def on_frames(self, frames: list[Frame]) -> None:
        """Whatever these frames bring leaves together: one message per destination."""
        outcome = Outcome([], [], [])
        for frame in frames:
            self._take(frame, outcome)
        self._send(outcome)

    def close(self) -> None:
        """It holds memory only."""

    def statistics(self) -> DetokenizerStatistics:
        """Raises RuntimeError before the tokenizer is loaded."""
        return DetokenizerStatistics(
            output=self._started().statistics(),
            num_frames=self._num_frames,
            num_dropped_frames=self._num_dropped,
            num_dropped_attachments=self._num_dropped_attachments,
        )

    def _started(self) -> OutputAssembler:
        if self._assembler is None:
            raise RuntimeError("the tokenizer is not loaded yet")
        return self._assembler

    def _take(self, frame: Frame, outcome: Outcome) -> None:
        self._num_frames += 1
        try:
            message = decode(frame.payload) if role_of(frame.sender) == "engine_core" else None
        except MalformedMessage:
            message = None
        match message:
            case TokensEmitted():
                logprobs = self._logprobs(frame.attachment)
                self._started().take(message.sequences, logprobs, outcome)
            case RequestAdmitted():
                self._started().admit(message, outcome)
            case EngineFacts():
                pass  # The core tells everybody; no limit of its concerns the text.
            case _:
                self._num_dropped += 1

    def _logprobs(self, attachment: bytes) -> dict[SeqId, SequenceLogprobs]:
        if not attachment:
            return {}
        try:
            return {entry.seq_id: entry for entry in decode_logprobs(attachment)}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._num_dropped_attachments += 1
            return {}

    def _send(self, outcome: Outcome) -> None:
        frontend, core = self.runtime.outboxes["frontend"], self.runtime.outboxes["engine_core"]
        if outcome.chunks:
            frontend.send(encode(TextEmitted(outcome.chunks)))
        for match in outcome.matches:
            core.send(encode(match))
        if outcome.delivered:
            core.send(encode(OutputDelivered(tuple(outcome.delivered))))


if __name__ == "__main__":
    raise SystemExit(run_actor(DetokenizerActor))
