"""`engine-bench throughput`: every prompt at once, answers in one piece, tokens per second."""

import argparse

from msgspec.structs import asdict

from tokenreel.tools.bench.client.load import Load
from tokenreel.tools.bench.flags import (
    add_output_flags,
    add_server_flags,
    add_workload_flags,
    check_workload,
    random_prompts,
)
from tokenreel.tools.bench.output import check_output, finish
from tokenreel.tools.bench.progress import Progress
from tokenreel.tools.bench.results.figures import samples_of, tally_of
from tokenreel.tools.bench.results.report import throughput_lines
from tokenreel.tools.bench.results.result import Throughput, ThroughputFigures, header_of
from tokenreel.tools.bench.session import Session
from tokenreel.tools.bench.settings import settings_of
from tokenreel.tools.bench.target import open_target
from tokenreel.tools.bench.workload.prompts import read_prompts

NUM_PROMPTS = 256
NUM_WARMUPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "engine-bench throughput [MODEL] [FLAG ...] [-- FLAG OF ENGINE-UP ...]"
    parser.description = (
        "Sends every prompt at once, as an offline job does, and waits for whole answers: how many "
        f"tokens per second come of it. Default: {NUM_PROMPTS} prompts, also with --dataset-path: "
        "the first of a longer file, those of a shorter one from the top again."
    )
    add_server_flags(parser)
    add_workload_flags(parser, input_len=128, output_len=64)
    add_output_flags(parser)


def run(options: argparse.Namespace) -> int:
    check_output(options)
    check_workload(options)
    with Session() as session:
        return _measure(options, session)


def _measure(options: argparse.Namespace, session: Session) -> int:
    header = header_of(options.given)
    num_prompts = options.num_prompts or NUM_PROMPTS
    with open_target(options, num_in_flight=num_prompts) as target:
        session.warm_up(target, options, NUM_WARMUPS)
        if options.dataset_path is not None:
            prompts = read_prompts(options.dataset_path, num_prompts, options.output_len)
        else:
            prompts = random_prompts(options, target.vocab_size).make(num_prompts)
        with Progress("throughput", num_prompts, not options.disable_tqdm) as progress:
            load = Load(
                target.endpoint,
                target.asks(prompts, options, is_streaming=False),
                is_streaming=False,
                timeout_s=options.request_timeout,
                on_outcome=progress,
            )
            done = session.run_load(load, target)
        server = target.server
    outcomes = done.measured.outcomes
    tally = tally_of(done.measured, done.actor_times_s, done.others_s)
    figures = ThroughputFigures(
        **asdict(tally),
        ended_s=samples_of([each.ended_s for each in outcomes if each.failure is None]),
    )
    result = Throughput(
        label=options.label or server.model,
        header=header,
        server=server,
        settings=settings_of(options),
        is_interrupted=session.is_interrupted,
        runs=[figures],
    )
    failed = tally.num_failed > 0
    return finish(options, result, throughput_lines(result), failed, target.last_words)
