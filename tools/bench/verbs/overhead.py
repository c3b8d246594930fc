"""`engine-bench overhead`: how near the engine is to the floor, and where the rest goes."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.client.address import parse_address
from tokenreel.tools.bench.client.endpoint import Endpoint
from tokenreel.tools.bench.client.load import Load
from tokenreel.tools.bench.flags import (
    MAX_PROMPTS,
    add_length_flags,
    add_output_flags,
    add_request_flags,
    add_server_flags,
    add_warmup_flag,
    concurrencies,
    num_warmups,
    random_prompts,
)
from tokenreel.tools.bench.floor.canned_server import READY
from tokenreel.tools.bench.floor.floor import Lengths, cpu_share, floor_of, layer_rows
from tokenreel.tools.bench.floor.model_shape import read_shape
from tokenreel.tools.bench.floor.product_times import Plan, ProductTimes, measure_products
from tokenreel.tools.bench.output import check_output, finish
from tokenreel.tools.bench.problem import Unavailable
from tokenreel.tools.bench.processes.child_process import ChildProcess, Line, python_module
from tokenreel.tools.bench.processes.processor_time import processor_time_s
from tokenreel.tools.bench.progress import Progress, telling
from tokenreel.tools.bench.results.figures import Figures, figures_of
from tokenreel.tools.bench.results.overhead_report import overhead_lines
from tokenreel.tools.bench.results.result import Overhead, OverheadFigures, Server, header_of
from tokenreel.tools.bench.session import Session, closed_loop_prompts
from tokenreel.tools.bench.settings import settings_of
from tokenreel.tools.bench.target import Target, model_directory, open_target, vocab_size_of

CONCURRENCIES = [1, 8, 64, 256]
CANNED_SERVER = "tokenreel.tools.bench.floor.canned_server"
HTTP = "http"
START_TIMEOUT_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "engine-bench overhead [MODEL] [FLAG ...] [-- FLAG OF ENGINE-UP ...]"
    parser.description = (
        "Measures in one run: the model's products at this machine's rate, the HTTP side alone, "
        "the pipeline without a model, and the engine. The first two and the load generator make "
        "the floor; told is how much of it the engine reaches, and what each process costs."
    )
    add_server_flags(parser, is_remote_allowed=False)
    add = parser.add_argument_group("load").add_argument
    add(
        "--max-concurrency",
        type=concurrencies,
        default=CONCURRENCIES,
        metavar="N,...",
        help="clients of a closed loop (default: 1,8,64,256)",
    )
    add("--num-prompts", type=values.integer(1, MAX_PROMPTS), metavar="N", help="requests per run")
    add_warmup_flag(add)
    add_length_flags(add, 64, 64)
    add_request_flags(add)
    add_output_flags(parser)


def run(options: argparse.Namespace) -> int:
    check_output(options)
    with Session() as session:
        return _measure(options, session)


def _measure(options: argparse.Namespace, session: Session) -> int:
    header = header_of(options.given)
    lengths = Lengths(options.input_len, options.output_len)
    levels: list[int] = options.max_concurrency
    model = model_directory(options)
    plan = Plan(read_shape(model), layer_rows(levels, lengths), levels)
    with telling("measuring the model's products", not options.disable_tqdm):
        times = measure_products(plan)
    most = max(levels)
    server = Server(url="", model=model.resolve().name, is_ours=True)
    https, stubs, engines = [], [], []
    last_words = None
    with suppress(KeyboardInterrupt):
        with _canned_target(vocab_size_of(model)) as target:
            https += _loads(session, target, options, "HTTP alone")
        _check_served(https)
        session.release()
        with open_target(options, flags=["--stub-worker"], num_in_flight=most) as target:
            stubs += _loads(session, target, options, "no model")
        last_words = target.last_words
        session.release()
        with open_target(options, num_in_flight=most) as target:
            server = target.server
            engines += _loads(session, target, options, "engine")
        last_words = last_words or target.last_words
    cores = header.machine.num_cores
    runs = [
        _figures(level, lengths, times, http, stub, engine, cores)
        for level, http, stub, engine in zip(levels, https, stubs, engines, strict=False)
    ]
    result = Overhead(
        label=options.label or server.model,
        header=header,
        server=server,
        settings=settings_of(options),
        is_interrupted=session.is_interrupted or len(runs) < len(levels),
        runs=runs,
        product_rates={str(rows): rate for rows, rate in times.gflops.items()},
        unfinished={"http": https[len(runs) :], "stub": stubs[len(runs) :]},
    )
    failed = any(each.num_failed for run in runs for each in (run.engine, run.stub, run.http))
    return finish(options, result, overhead_lines(result), failed, last_words)


def _check_served(https: Sequence[Figures]) -> None:
    """Raises Unavailable for a level of which there can be no floor."""
    for run in https:
        if not run.num_output_tokens:
            reasons = ", ".join(f"{n} x {reason}" for reason, n in run.failures.items())
            raise Unavailable(f"HTTP alone, c={run.max_concurrency}: nothing was served: {reasons}")


def _figures(
    level: int,
    lengths: Lengths,
    times: ProductTimes,
    http: Figures,
    stub: Figures,
    engine: Figures,
    num_cores: int,
) -> OverheadFigures:
    http_cpu_s = sum(actor.cpu_s for actor in http.actors)
    floor = floor_of(level, lengths, times, http, http_cpu_s, num_cores)
    return OverheadFigures(
        max_concurrency=level,
        engine=engine,
        stub=stub,
        http=http,
        floor=floor,
        share_of_floor=engine.output_tokens_per_s / floor.tokens_per_s,
        cpu_share_of_floor=cpu_share(engine, floor),
    )


def _loads(
    session: Session, target: Target, options: argparse.Namespace, label: str
) -> list[Figures]:
    """Of each concurrency; fewer if it was interrupted."""
    session.warm_up(target, options, num_warmups(options))
    figures: list[Figures] = []
    for level in options.max_concurrency:
        if session.is_interrupted:
            break
        prompts = random_prompts(options, target.vocab_size, f"{label} {level}").make(
            options.num_prompts or closed_loop_prompts(level)
        )
        name = f"{label}, c={level}"
        with Progress(name, len(prompts), not options.disable_tqdm) as progress:
            load = Load(
                target.endpoint,
                target.asks(prompts, options),
                max_concurrency=level,
                timeout_s=options.request_timeout,
                on_outcome=progress,
            )
            done = session.run_load(load, target)
        if done.is_interrupted:
            break
        times_s, others_s = done.actor_times_s, done.others_s
        found = figures_of(done.measured, times_s, others_s, max_concurrency=level, limits_ms={})
        figures.append(found)
    return figures


@contextmanager
def _canned_target(vocab_size: int | None) -> Iterator[Target]:
    with ChildProcess(HTTP, python_module(CANNED_SERVER)) as child:
        url = child.wait_for(_canned_url, START_TIMEOUT_S)
        yield Target(
            Endpoint(parse_address(url)),
            Server(url=url, model="canned"),
            vocab_size,
            lambda: {HTTP: processor_time_s(child.process.pid)},
        )


def _canned_url(lines: Sequence[Line]) -> str | None:
    texts = [line.text for line in lines if line.text.startswith(READY)]
    return texts[0].removeprefix(READY) if texts else None
