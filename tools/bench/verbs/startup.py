"""`engine-bench startup`: from the command to ready, and to the first token of a first request."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.client.load import Load
from tokenreel.tools.bench.flags import (
    add_length_flags,
    add_output_flags,
    add_request_flags,
    add_server_flags,
    model_of,
    random_prompts,
)
from tokenreel.tools.bench.output import check_output, finish
from tokenreel.tools.bench.problem import Unavailable
from tokenreel.tools.bench.processes.engine import Engine
from tokenreel.tools.bench.progress import Progress
from tokenreel.tools.bench.results.figures import spread_of
from tokenreel.tools.bench.results.report import startup_lines
from tokenreel.tools.bench.results.result import (
    Server,
    Start,
    Startup,
    StartupFigures,
    header_of,
    without_secrets,
)
from tokenreel.tools.bench.session import Session
from tokenreel.tools.bench.settings import settings_of
from tokenreel.tools.bench.target import Target, endpoint_at, model_directory, vocab_size_of
from tokenreel.tools.command import UsageError

CACHE_VARIABLES = (
    "NUMBA_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
)
"""Where compilers keep what they have compiled."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "engine-bench startup [MODEL] [FLAG ...] [-- FLAG OF ENGINE-UP ...]"
    parser.description = (
        "Starts engine-up again and again and asks it for one token. A cold start finds empty "
        "compile caches, and the model's files out of the page cache if the system lets go of "
        "them; a warm one finds both as an earlier start left them. The caches are the bench's "
        "own: yours are left alone. A start that fails is the last one; those before it are told."
    )
    add_server_flags(parser, is_remote_allowed=False)
    add = parser.add_argument_group("repeats").add_argument
    for name, default, what in (
        ("--num-iters-cold", 2, "cold starts"),
        ("--num-iters-warm", 3, "warm starts"),
        ("--num-iters-warmup", 1, "starts before the warm ones, not measured"),
    ):
        add(
            name,
            type=values.integer(0, 1000),
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )
    add = parser.add_argument_group("first request").add_argument
    add_length_flags(add, 32, 1)
    add_request_flags(add)
    add_output_flags(parser)


def run(options: argparse.Namespace) -> int:
    check_output(options)
    if not options.num_iters_cold + options.num_iters_warm:
        raise UsageError("no start is asked for: --num-iters-cold, or --num-iters-warm")
    if options.num_iters_warm and not options.num_iters_cold + options.num_iters_warmup:
        raise UsageError("a warm start needs one before it: --num-iters-warmup, or a cold one")
    header = header_of(options.given)
    model = model_directory(options)
    num_cold, num_warm = options.num_iters_cold, options.num_iters_warm
    num_before = options.num_iters_warmup if num_warm else 0
    starts: list[Start] = []
    is_interrupted = False
    failure: Unavailable | None = None
    with (
        Session() as session,
        tempfile.TemporaryDirectory(prefix="engine-bench-") as warm,
        Progress("startup", num_cold + num_before + num_warm, not options.disable_tqdm) as progress,
    ):
        try:
            for number in range(num_cold):
                with tempfile.TemporaryDirectory(prefix="engine-bench-") as cold:
                    # What the last one compiles is what warm ones find.
                    caches = cold if number < num_cold - 1 else warm
                    forget_pages(model)
                    session.release()
                    starts.append(_start(session, options, model, Path(caches), is_cold=True))
                progress.advance()
            for number in range(num_before + num_warm):
                session.release()
                start = _start(session, options, model, Path(warm), is_cold=False)
                starts += [start] if number >= num_before else []
                progress.advance()
        except KeyboardInterrupt:
            is_interrupted = True
        except Unavailable as error:
            failure = error
    if failure is not None and not starts:
        raise failure
    result = Startup(
        label=options.label or model.resolve().name,
        header=header,
        server=Server(
            url="",
            model=model.resolve().name,
            flags=without_secrets(options.engine_flags),
            is_ours=True,
        ),
        settings=settings_of(options),
        is_interrupted=is_interrupted or session.is_interrupted,
        runs=figures_of_starts(starts),
        starts=starts,
        failure=str(failure) if failure is not None else None,
    )
    return finish(options, result, startup_lines(result), has_failed=failure is not None)


def figures_of_starts(starts: Sequence[Start]) -> list[StartupFigures]:
    """Cold ones, then warm ones, if there are any."""
    figures = []
    for is_cold in (True, False):
        alike = [start for start in starts if start.is_cold == is_cold]
        if alike:
            figures.append(
                StartupFigures(
                    is_cold=is_cold,
                    ready_s=spread_of([start.ready_s for start in alike]),
                    first_token_s=spread_of([start.first_token_s for start in alike]),
                    actors_s={
                        actor: sum(start.actors_s[actor] for start in alike) / len(alike)
                        for actor in alike[0].actors_s
                    },
                )
            )
    return figures


def forget_pages(model: Path) -> None:
    """Ask the system to drop the files from its page cache; pages that somebody maps stay."""
    for path in model.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(
    session: Session, options: argparse.Namespace, model: Path, caches: Path, *, is_cold: bool
) -> Start:
    environment = {name: str(caches / name.lower()) for name in CACHE_VARIABLES}
    given = model_of(options)
    with Engine(given, options.engine_flags, environment) as engine:
        url = engine.wait_until_ready(options.ready_check_timeout_sec)
        server = Server(url=url, model=engine.model_name)
        target = Target(endpoint_at(url, options), server, vocab_size_of(model))
        first_token = _ask_once(session, target, options)
        return Start(
            is_cold=is_cold,
            ready_s=engine.ready_s,
            first_token_s=first_token - engine.started_s,
            actors_s=engine.actors_ready_s,
        )


def _ask_once(session: Session, target: Target, options: argparse.Namespace) -> float:
    """When the first token came, by `perf_counter`. Raises Unavailable if none did."""
    prompts = random_prompts(options, target.vocab_size).make(1)
    asks = target.asks(prompts, options)
    load = Load(target.endpoint, asks, timeout_s=options.request_timeout)
    done = session.run_load(load, target)
    if done.is_interrupted:
        raise KeyboardInterrupt
    (outcome,) = done.measured.outcomes
    if outcome.failure is not None:
        raise Unavailable(f"the first request failed: {outcome.failure}")
    return outcome.stamps[0]
