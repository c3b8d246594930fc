"""What `overhead` says at the end: the engine beside its floor, and what each process costs."""

from collections.abc import Callable

from tokenreel.tools.bench.results.report import actor_lines, note_lines, title_of
from tokenreel.tools.bench.results.result import Overhead, OverheadFigures
from tokenreel.tools.bench.results.text_table import aligned, number

PARTS = {"http": "HTTP side alone", "stub": "without the model"}


def overhead_lines(result: Overhead) -> list[str]:
    lines = _level_lines(result) if result.runs else []
    for part, runs in result.unfinished.items():
        rows = [[title_of(run), number(run.output_tokens_per_s)] for run in runs]
        if rows:
            lines += ["", *aligned([f"{PARTS[part]}, interrupted", "output tok/s"], rows)]
    return lines


def _level_lines(result: Overhead) -> list[str]:
    runs = result.runs
    titles = [f"c={run.max_concurrency}" for run in runs]

    def row(name: str, value: Callable[[OverheadFigures], str]) -> list[str]:
        return [name, *(value(run) for run in runs)]

    rows = [
        row("engine, output tok/s", lambda run: number(run.engine.output_tokens_per_s)),
        row("floor, output tok/s", lambda run: number(run.floor.tokens_per_s)),
        row("share of the floor", lambda run: f"{run.share_of_floor:.0%}"),
        row("share by CPU time", lambda run: f"{run.cpu_share_of_floor:.0%}"),
        row("without the model, tok/s", lambda run: number(run.stub.output_tokens_per_s)),
        row("TTFT p50, ms", lambda run: number(run.engine.ttft_ms.p50)),
        row("TTFT p99, ms", lambda run: number(run.engine.ttft_ms.p99)),
        row("TPOT p50, ms", lambda run: number(run.engine.tpot_ms.p50)),
    ]
    parts = [
        row("model's products", lambda run: number(run.floor.model_us)),
        row("HTTP side alone", lambda run: number(run.floor.http_us)),
        row("load generator", lambda run: number(run.floor.generator_us)),
        row("sum", lambda run: number(run.floor.cpu_us)),
    ]
    rates = ", ".join(f"{rows} rows {number(r)}" for rows, r in result.product_rates.items())
    engines, stubs = [run.engine for run in runs], [run.stub for run in runs]
    https = [run.http for run in runs]
    return [
        *aligned(["", *titles], rows),
        *note_lines(engines, titles),
        *note_lines(stubs, [f"{title}, without the model" for title in titles]),
        *note_lines(https, [f"{title}, HTTP alone" for title in titles]),
        "",
        *aligned(["floor: CPU us/token", *titles], parts),
        f"  products in GFLOP/s of one core (numpy, float32): {rates}",
        "",
        "engine",
        *actor_lines(engines, titles)[1:],
        "",
        "without the model (engine-up --stub-worker)",
        *actor_lines(stubs, titles)[1:],
    ]
