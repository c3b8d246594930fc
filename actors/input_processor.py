"""The input processor's shell: submitted requests in, admissible ones out, or a clear refusal.

It keeps nothing between requests, and whatever goes wrong with one concerns that one only.
"""

import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec

from tokenreel.actors.runtime.actor import Actor, ActorRuntime, StartError, run_actor
from tokenreel.actors.runtime.channels import ChannelFull, Frame, FrameTooLarge
from tokenreel.actors.runtime.topology import role_of
from tokenreel.actors.text.chat_template import ChatTemplate, load_chat_template
from tokenreel.actors.text.model_files import ModelFilesError
from tokenreel.actors.text.request_resolver import InvalidRequest, RequestResolver
from tokenreel.actors.text.sampling_defaults import SamplingDefaults
from tokenreel.actors.text.tokenizer import ModelTokenizer
from tokenreel.messages.codec import MalformedMessage, decode, encode
from tokenreel.messages.ids import RequestKey
from tokenreel.messages.lifecycle import EngineFacts
from tokenreel.messages.requests import AdmitRequest, RequestRejected, SubmitRequest


class InputProcessorStatistics(msgspec.Struct, frozen=True):
    num_forwarded: int
    num_rejected: int
    num_failures: int
    """Of the rejected: those that met an unexpected exception."""
    num_dropped_frames: int
    """Frames that hold no message meant for an input processor."""


class InputProcessorActor(Actor):
    """`draw_seed` gives a u64 for each request without a seed; by default a sequence that
    `--seed` names."""

    ROLE = "input_processor"
    DESTINATIONS = ("engine_core", "frontend")

    def __init__(self, runtime: ActorRuntime, draw_seed: Callable[[], int] | None = None) -> None:
        super().__init__(runtime)
        random = Random(runtime.options.seed)
        self._draw_seed = draw_seed or (lambda: random.getrandbits(64))
        self._tokenizer: ModelTokenizer | None = None
        self._chat_template: ChatTemplate | None = None
        self._defaults = SamplingDefaults()
        self._resolver: RequestResolver | None = None
        self._num_forwarded = 0
        self._num_rejected = 0
        self._num_failures = 0
        self._num_dropped = 0

    def start(self) -> None:
        """It is ready when the core has said what a request may be."""
        options, clock = self.runtime.options, self.runtime.clock
        model_dir = Path(options.model)
        try:
            self._tokenizer = ModelTokenizer.load(model_dir)
            self._defaults = SamplingDefaults.load(model_dir)
            self._chat_template = load_chat_template(
                model_dir,
                options.chat_template,
                special_tokens=self._tokenizer.special_tokens,
                now=lambda: datetime.fromtimestamp(clock.wall_ns() / 1e9),
            )
        except ModelFilesError as error:
            raise StartError(str(error)) from error

    def on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._take(frame)

    def close(self) -> None:
        """It holds memory only."""

    def statistics(self) -> InputProcessorStatistics:
        return InputProcessorStatistics(
            num_forwarded=self._num_forwarded,
            num_rejected=self._num_rejected,
            num_failures=self._num_failures,
            num_dropped_frames=self._num_dropped,
        )

    def _take(self, frame: Frame) -> None:
        try:
            message = decode(frame.payload)
        except MalformedMessage:
            self._num_dropped += 1
            return
        match message, role_of(frame.sender):
            case SubmitRequest(), "frontend":
                self._process(message)
            case EngineFacts(), "engine_core":
                self._learn(message)
            case _:
                self._num_dropped += 1

    def _learn(self, facts: EngineFacts) -> None:
        assert self._tokenizer is not None
        self._resolver = RequestResolver(
            tokenizer=self._tokenizer,
            chat_template=self._chat_template,
            defaults=self._defaults,
            facts=facts,
            draw_seed=self._draw_seed,
            hashes_blocks=self.runtime.options.enable_prefix_caching,
        )
        template = "chat template" if self._chat_template else "no chat template"
        self.runtime.ready(f"{self._tokenizer.vocab_size} tokens, {template}")

    def _process(self, request: SubmitRequest) -> None:
        try:
            admissible = self._resolve(request)
            self.runtime.outboxes["engine_core"].send(encode(admissible))
        except InvalidRequest as error:
            self._reject(request.key, error)
        except (ChannelFull, FrameTooLarge) as error:
            self._reject(request.key, InvalidRequest("overloaded", str(error), None, 503))
        except Exception as error:
            self._num_failures += 1
            traceback.print_exception(error)
            message = f"the request could not be processed: {type(error).__name__}"
            self._reject(request.key, InvalidRequest("internal_error", message, None, 500))
        else:
            self._num_forwarded += 1

    def _resolve(self, request: SubmitRequest) -> AdmitRequest:
        if self._resolver is None:
            raise InvalidRequest("starting", "the engine is still starting", None, 503)
        return self._resolver.resolve(request)

    def _reject(self, key: RequestKey, error: InvalidRequest) -> None:
        self._num_rejected += 1
        rejected = RequestRejected(key, error.status, error.code, error.message, error.param)
        self.runtime.outboxes["frontend"].send(encode(rejected))


if __name__ == "__main__":
    raise SystemExit(run_actor(InputProcessorActor))
