"""The server that is measured: one that runs already, or an `engine-up` of our own."""

import argparse
import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from tokenreel.actors.runtime.child import API_KEY_VARIABLE
from tokenreel.messages.options import EngineOptions
from tokenreel.tools.bench.client.address import parse_address
from tokenreel.tools.bench.client.endpoint import Endpoint
from tokenreel.tools.bench.client.load import Ask
from tokenreel.tools.bench.flags import model_of
from tokenreel.tools.bench.processes.engine import Engine
from tokenreel.tools.bench.progress import telling
from tokenreel.tools.bench.results.result import KEY_FLAG, Server, without_secrets
from tokenreel.tools.bench.workload.prompts import Prompt
from tokenreel.tools.command import UsageError

DEFAULT_VOCAB_SIZE = 30_000
API_KEY_VARIABLES = (API_KEY_VARIABLE, "OPENAI_API_KEY")
QUEUE_FLAG = "--max-num-queued-reqs"


class Target:
    """A server that is ready. `processor_times_s` tells what its processes have had so far, by
    their roles; nothing, if they are not ours. `last_words` are those of an engine of ours that
    ended before it was told to, once `open_target` has found out."""

    def __init__(
        self,
        endpoint: Endpoint,
        server: Server,
        vocab_size: int | None,
        processor_times_s: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.endpoint = endpoint
        self.server = server
        self.known_vocab_size = vocab_size
        self.processor_times_s = processor_times_s
        self.last_words: str | None = None

    @property
    def vocab_size(self) -> int:
        return self.known_vocab_size or DEFAULT_VOCAB_SIZE

    def asks(
        self, prompts: Sequence[Prompt], options: argparse.Namespace, *, is_streaming: bool = True
    ) -> list[Ask]:
        """The requests, encoded before any clock starts."""
        fields: dict[str, Any] = {
            "model": self.server.model,
            "temperature": options.temperature,
            "stream": is_streaming,
        }
        if is_streaming:
            fields["stream_options"] = {"include_usage": True}
        if options.ignore_eos:
            fields["ignore_eos"] = True
        fields |= options.extra_body
        return [
            Ask(
                self.endpoint.request(
                    fields | {"prompt": prompt.content, "max_tokens": prompt.num_output_tokens}
                ),
                prompt.num_output_tokens * prompt.num_sequences,
                prompt.due_s,
            )
            for prompt in prompts
        ]


@contextmanager
def open_target(
    options: argparse.Namespace, *, flags: Sequence[str] = (), num_in_flight: int = 0
) -> Iterator[Target]:
    """`flags` are further ones for engine-up, which is told to take `num_in_flight` requests.

    Raises UsageError, NotServed, ChildFailed.
    """
    base_url = getattr(options, "base_url", None)
    model = model_of(options)
    if base_url is not None:
        if options.engine_flags:
            raise UsageError("flags behind `--` are for engine-up, which --base-url leaves out")
        yield _running(base_url, model, options)
        return
    engine_flags = [*options.engine_flags, *flags]
    # A client has its answer a little before the engine counts the request as over.
    num_queued = 2 * num_in_flight
    is_said = any(flag.partition("=")[0] == QUEUE_FLAG for flag in engine_flags)
    default = EngineOptions(model="", served_model_name="").max_num_queued_reqs
    if num_queued > default and not is_said:
        engine_flags += [QUEUE_FLAG, str(num_queued)]
    with Engine(model, engine_flags) as engine:
        with telling("starting engine-up", not options.disable_tqdm):
            url = engine.wait_until_ready(options.ready_check_timeout_sec)
        endpoint = endpoint_at(url, options)
        server = Server(
            url=url,
            model=engine.model_name,
            flags=without_secrets(engine.flags),
            is_ours=True,
            ready_s=engine.ready_s,
        )
        vocab_size = getattr(options, "vocab_size", None) or vocab_size_of(model_directory(options))
        target = Target(endpoint, server, vocab_size, engine.processor_times_s)
        yield target
        target.last_words = engine.last_words


def model_directory(options: argparse.Namespace) -> Path:
    """The one that was given, or the demo model's."""
    from tokenreel.tools.up_flags import DEMO_MODEL  # With it comes what supervises, and zmq.

    return model_of(options) or DEMO_MODEL


def vocab_size_of(model: Path) -> int | None:
    """As its config.json says; None if it does not."""
    try:
        config = json.loads((model / "config.json").read_text())
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    except (OSError, ValueError, AttributeError):
        return None
    return size if isinstance(size, int) and size > 1 else None


def _running(url: str, model: Path | None, options: argparse.Namespace) -> Target:
    endpoint = endpoint_at(url, options)

    async def ask() -> str:
        try:
            return await endpoint.wait_until_ready(
                options.ready_check_timeout_sec, options.served_model_name
            )
        finally:
            endpoint.connections.close()

    with (
        telling(f"waiting for {url}", not options.disable_tqdm),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        name = runner.run(ask())
    vocab_size = options.vocab_size or (vocab_size_of(model) if model else None)
    return Target(endpoint, Server(url=url, model=name), vocab_size)


def endpoint_at(url: str, options: argparse.Namespace) -> Endpoint:
    """With the headers and the key that the command line and the environment give."""
    headers = dict(getattr(options, "header", []))
    key = _api_key(options.engine_flags)
    if key and not {"authorization"} & {name.lower() for name in headers}:
        headers["Authorization"] = f"Bearer {key}"
    return Endpoint(parse_address(url), headers)


def _api_key(engine_flags: Sequence[str]) -> str | None:
    """The one that engine-up was given, or that the environment holds."""
    for flag, following in zip(engine_flags, [*engine_flags[1:], ""], strict=False):
        if flag == KEY_FLAG:
            return following
        if flag.startswith(f"{KEY_FLAG}="):
            return flag.removeprefix(f"{KEY_FLAG}=")
    return next((found for name in API_KEY_VARIABLES if (found := os.environ.get(name))), None)
