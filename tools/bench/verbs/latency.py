"""`engine-bench latency`: one batch at a time, how long it takes from its request to its answer."""

import argparse
from collections import Counter

from tokenreel.tools import up_values as values
from tokenreel.tools.bench.client.load import Ask, Load, Outcome
from tokenreel.tools.bench.flags import (
    add_length_flags,
    add_output_flags,
    add_request_flags,
    add_server_flags,
)
from tokenreel.tools.bench.output import check_output, finish
from tokenreel.tools.bench.progress import Progress
from tokenreel.tools.bench.results.figures import e2el_ms, samples_of, spread_of
from tokenreel.tools.bench.results.report import latency_lines
from tokenreel.tools.bench.results.result import Latency, LatencyFigures, header_of
from tokenreel.tools.bench.session import Session
from tokenreel.tools.bench.settings import settings_of
from tokenreel.tools.bench.target import Target, open_target
from tokenreel.tools.bench.workload.prompts import RandomPrompts, batch_of

MAX_BATCH_SIZE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "engine-bench latency [MODEL] [FLAG ...] [-- FLAG OF ENGINE-UP ...]"
    parser.description = (
        "Sends a batch of prompts as one request, waits for the whole answer, and sends the next: "
        "the percentiles of how long a batch takes."
    )
    add_server_flags(parser)
    add = parser.add_argument_group("workload").add_argument
    add(
        "--batch-size",
        type=values.integer(1, MAX_BATCH_SIZE),
        default=8,
        metavar="N",
        help="sequences at a time (default: 8)",
    )
    add_length_flags(add, 32, 128)
    add(
        "--num-iters-warmup",
        type=values.integer(0),
        default=10,
        metavar="N",
        help="batches before (default: 10)",
    )
    add(
        "--num-iters",
        type=values.integer(1),
        default=30,
        metavar="N",
        help="batches that are measured (default: 30)",
    )
    add_request_flags(add)
    add_output_flags(parser)


def run(options: argparse.Namespace) -> int:
    check_output(options)
    with Session() as session:
        return _measure(options, session)


def _measure(options: argparse.Namespace, session: Session) -> int:
    header = header_of(options.given)
    with open_target(options, num_in_flight=options.batch_size) as target:
        batches = _batches(options, target)
        outcomes: list[Outcome] = []
        with Progress("latency", len(batches), not options.disable_tqdm, "batch") as progress:

            def note(outcome: Outcome) -> None:
                outcomes.append(outcome)
                progress(outcome)

            load = Load(
                target.endpoint,
                batches,
                max_concurrency=1,
                is_streaming=False,
                timeout_s=options.request_timeout,
                on_outcome=note,
            )
            session.run_load(load, target)
        server = target.server
    figures = figures_of_batches(outcomes[options.num_iters_warmup :], options)
    result = Latency(
        label=options.label or server.model,
        header=header,
        server=server,
        settings=settings_of(options),
        is_interrupted=session.is_interrupted,
        runs=[figures],
    )
    failed = bool(figures.failures)
    return finish(options, result, latency_lines(result), failed, target.last_words)


def figures_of_batches(outcomes: list[Outcome], options: argparse.Namespace) -> LatencyFigures:
    served = [outcome for outcome in outcomes if outcome.failure is None]
    latencies_ms = [e2el_ms(outcome) for outcome in served]
    latency_ms = spread_of(latencies_ms)
    num_tokens = sum(outcome.num_output_tokens for outcome in served) / max(1, len(served))
    return LatencyFigures(
        batch_size=options.batch_size,
        num_input_tokens=options.input_len,
        num_output_tokens=options.output_len,
        latency_ms=latency_ms,
        samples_ms=samples_of(latencies_ms),
        output_tokens_per_s=1e3 * num_tokens / latency_ms.mean if latency_ms.mean else 0.0,
        num_other_length=sum(outcome.has_other_length for outcome in served),
        failures=dict(Counter(outcome.failure for outcome in outcomes if outcome.failure)),
    )


def _batches(options: argparse.Namespace, target: Target) -> list[Ask]:
    """Each of them of other random tokens, so that no cache knows them."""
    size, num_batches = options.batch_size, options.num_iters_warmup + options.num_iters
    series = RandomPrompts(
        input_len=options.input_len,
        output_len=options.output_len,
        vocab_size=target.vocab_size,
        seed=str(options.seed),
    )
    prompts = series.make(size * num_batches)
    batches = [batch_of(prompts[start : start + size]) for start in range(0, len(prompts), size)]
    return target.asks(batches, options, is_streaming=False)
