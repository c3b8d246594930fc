"""`engine-bench serve`: a server under load, as its clients see it."""

import argparse
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.client.load import Load
from tokenreel.tools.bench.flags import (
    add_output_flags,
    add_server_flags,
    add_warmup_flag,
    add_workload_flags,
    burstiness,
    check_workload,
    concurrencies,
    goodput_limit,
    num_warmups,
    random_prompts,
    rates,
    slowness,
)
from tokenreel.tools.bench.output import check_output, finish
from tokenreel.tools.bench.progress import Progress
from tokenreel.tools.bench.results.figures import Figures, figures_of
from tokenreel.tools.bench.results.report import METRICS, serve_lines
from tokenreel.tools.bench.results.result import Serve, header_of
from tokenreel.tools.bench.session import MIN_PROMPTS, Session, closed_loop_prompts
from tokenreel.tools.bench.settings import settings_of
from tokenreel.tools.bench.target import Target, open_target
from tokenreel.tools.bench.workload.arrivals import arrive
from tokenreel.tools.bench.workload.prompts import Prompt, read_prompts
from tokenreel.tools.bench.workload.trace_file import TraceForm, read_trace
from tokenreel.tools.command import UsageError

ARRIVALS_S = 30
"""For how long requests come in an open loop, unless --num-prompts says otherwise."""
PROMPTS_AT_ONCE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "engine-bench serve [MODEL] [FLAG ...] [-- FLAG OF ENGINE-UP ...]"
    parser.description = (
        "Streams completions from a server under load: tokens/s, TTFT, TPOT, ITL, E2EL, goodput. "
        "With --max-concurrency alone, a closed loop: so many clients, each of whom asks when it "
        "has its answer. With --request-rate or --trace, an open loop."
    )
    add_server_flags(parser)
    add = parser.add_argument_group("load").add_argument
    add(
        "--max-concurrency",
        type=concurrencies,
        default=[None],
        metavar="N,...",
        help="requests in flight; several numbers make several runs",
    )
    add(
        "--request-rate",
        type=rates,
        default=[math.inf],
        metavar="R,...",
        help="requests per second, open loop; several numbers make several runs (default: inf)",
    )
    add(
        "--burstiness",
        type=burstiness,
        default=1.0,
        metavar="B",
        help="of the arrivals, the shape of a gamma distribution: 1 is Poisson, below it comes in "
        "bursts, above it is steadier, inf is constant (default: 1)",
    )
    add(
        "--trace",
        type=values.path,
        metavar="FILE",
        help="arrivals and lengths: JSON lines with timestamp, input_length, output_length and "
        "perhaps hash_ids; or the directory of a captured run's journal",
    )
    add(
        "--trace-sec-multiplier",
        type=slowness,
        default=1.0,
        metavar="X",
        help="seconds per unit of timestamp, 0.001 for milliseconds; 0.5 plays twice as fast",
    )
    add(
        "--trace-chunk-hash-size",
        type=values.integer(1, 1 << 16),
        default=16,
        metavar="TOKENS",
        help="that one of a trace's hash_ids stands for (default: 16)",
    )
    add_warmup_flag(add)
    add_workload_flags(parser, input_len=128, output_len=64)
    add_output_flags(parser)
    add = parser.add_argument_group("figures").add_argument
    add(
        "--goodput",
        type=goodput_limit,
        nargs="+",
        default=[],
        metavar="NAME:MS",
        help="count requests within every limit, such as ttft:500 tpot:50; also e2el",
    )
    add(
        "--percentile-metrics",
        type=_metrics,
        default=tuple(METRICS),
        metavar="NAMES",
        help="which to print (default: ttft,tpot,itl,e2el); the JSON has them all",
    )
    add("--save-detailed", action="store_true", help="the JSON tells each request")


def run(options: argparse.Namespace) -> int:
    check_output(options)
    check_workload(options)
    if options.trace is not None and not all(map(math.isinf, options.request_rate)):
        raise UsageError("--trace has its own arrivals: leave --request-rate out")
    if options.burstiness != 1.0 and all(map(math.isinf, options.request_rate)):
        raise UsageError("--burstiness shapes the arrivals of a --request-rate: name one")
    if options.dataset_path is not None and options.trace is not None:
        raise UsageError("--trace and --dataset-path are two workloads: leave one out")
    with Session() as session:
        return _measure(options, session)


def _measure(options: argparse.Namespace, session: Session) -> int:
    header = header_of(options.given)
    figures: list[Figures] = []
    most = max(concurrency or 0 for concurrency in options.max_concurrency)
    most = most or options.num_prompts or 0
    with open_target(options, num_in_flight=most) as target:
        session.warm_up(target, options, num_warmups(options))
        loads = list(product(options.request_rate, options.max_concurrency))
        for number, (rate, concurrency) in enumerate(loads):
            prompts = _prompts(options, target, number, rate, concurrency)
            if figures and session.is_interrupted:
                break
            figures.append(_run_one(session, target, options, prompts, rate, concurrency))
        server = target.server
    result = Serve(
        label=options.label or server.model,
        header=header,
        server=server,
        settings=settings_of(options),
        is_interrupted=session.is_interrupted,
        runs=figures,
    )
    failed = any(run.num_failed for run in figures)
    lines = serve_lines(result, options.percentile_metrics)
    return finish(options, result, lines, failed, target.last_words)


def _run_one(
    session: Session,
    target: Target,
    options: argparse.Namespace,
    prompts: Sequence[Prompt],
    rate: float,
    concurrency: int | None,
) -> Figures:
    title = f"c={concurrency}" if concurrency else "all"
    with Progress(title, len(prompts), not options.disable_tqdm) as progress:
        load = Load(
            target.endpoint,
            target.asks(prompts, options),
            max_concurrency=concurrency,
            is_open=options.trace is not None or not math.isinf(rate),
            timeout_s=options.request_timeout,
            on_outcome=progress,
        )
        done = session.run_load(load, target)
    return figures_of(
        done.measured,
        done.actor_times_s,
        done.others_s,
        max_concurrency=concurrency,
        request_rate=None if math.isinf(rate) else rate,
        limits_ms=dict(options.goodput),
        has_requests=options.save_detailed,
    )


def _prompts(
    options: argparse.Namespace,
    target: Target,
    number: int,
    rate: float,
    concurrency: int | None,
) -> list[Prompt]:
    """Those of the run `number`: random ones are others each time, for no cache to know them."""
    if options.trace is not None:
        return _traced(options, target, options.trace)
    if options.dataset_path is not None:
        prompts = read_prompts(options.dataset_path, options.num_prompts, options.output_len)
    else:
        num_prompts = options.num_prompts or _default_num_prompts(rate, concurrency)
        prompts = random_prompts(options, target.vocab_size, number).make(num_prompts)
    if math.isinf(rate):
        return prompts
    seed = options.seed
    return arrive(prompts, request_rate=rate, burstiness=options.burstiness, seed=seed)


def _traced(options: argparse.Namespace, target: Target, path: Path) -> list[Prompt]:
    if path.is_dir() or path.suffix == ".tkr":
        from tokenreel.tools.bench.workload.journal_trace import read_journal

        return read_journal(
            path, target.known_vocab_size, options.num_prompts, options.trace_sec_multiplier
        )
    form = TraceForm(
        seconds_per_unit=options.trace_sec_multiplier,
        block_size=options.trace_chunk_hash_size,
        vocab_size=target.vocab_size,
        seed=options.seed,
    )
    return read_trace(path, form, options.num_prompts)


def _default_num_prompts(rate: float, concurrency: int | None) -> int:
    if not math.isinf(rate):
        return max(MIN_PROMPTS, round(rate * ARRIVALS_S))
    return closed_loop_prompts(concurrency) if concurrency else PROMPTS_AT_ONCE


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in METRICS:
            known = ", ".join(METRICS)
            raise argparse.ArgumentTypeError(f"{name!r} is none of {known}")
    return names
