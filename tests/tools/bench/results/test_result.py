"""A result is written, read, drawn and compared as what it is."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tokenreel.tools.bench.results.comparison import comparison_lines
from tokenreel.tools.bench.results.figures import (
    ActorTime,
    Figures,
    Generator,
    Goodput,
    Spread,
)
from tokenreel.tools.bench.results.overhead_report import overhead_lines
from tokenreel.tools.bench.results.plot import draw
from tokenreel.tools.bench.results.report import METRICS, head_lines, serve_lines
from tokenreel.tools.bench.results.result import (
    BadResult,
    Floor,
    Overhead,
    OverheadFigures,
    Serve,
    Server,
    header_of,
    read_result,
    without_secrets,
    write_result,
)
from tokenreel.tools.bench.results.text_table import number
from tokenreel.tools.command import UsageError
from tokenreel.tools.figure import CannotDraw

SPREAD = Spread(10, 2.0, 1.0, 1.5, 2.5, 3.0, 4.0, 5.0)


def figures(concurrency: int, rate: float) -> Figures:
    return Figures(
        num_requests=10,
        num_completed=9,
        num_failed=1,
        failures={"HTTP 429 too_many_requests": 1},
        num_cut_short=0,
        num_other_length=0,
        duration_s=2.0,
        num_prompt_tokens=100,
        num_cached_tokens=50,
        num_output_tokens=200,
        output_tokens_per_s=rate,
        total_tokens_per_s=1.5 * rate,
        requests_per_s=4.5,
        generator=Generator(1.2, 6.0, 0.6, Spread()),
        actors=[ActorTime("worker", 1.0, 5.0, 0.5)],
        others_cores=0.7,
        max_concurrency=concurrency,
        request_rate=None,
        ttft_ms=SPREAD,
        tpot_ms=SPREAD,
        itl_ms=SPREAD,
        e2el_ms=SPREAD,
        samples_ms={name: [1.0, 2.0, 5.0] for name in METRICS},
        goodput=Goodput({"ttft": 50.0}, 8, 0.8, 4.0),
    )


def serve(*rates: float, label: str = "tiny") -> Serve:
    return Serve(
        label=label,
        header=header_of(["serve", "MODEL"]),
        server=Server(url="http://127.0.0.1:1", model="tiny"),
        settings={"seed": 0},
        runs=[figures(8**place, rate) for place, rate in enumerate(rates)],
    )


def overhead() -> Overhead:
    floor = Floor(model_us=50.0, http_us=10.0, generator_us=5.0, num_cores=2, tokens_per_s=30769.0)
    run = OverheadFigures(
        max_concurrency=8,
        engine=figures(8, 20_000),
        stub=figures(8, 60_000),
        http=figures(8, 90_000),
        floor=floor,
        share_of_floor=0.65,
        cpu_share_of_floor=0.81,
    )
    kept = serve(1.0)
    return Overhead(
        label="tiny",
        header=kept.header,
        server=kept.server,
        settings={},
        runs=[run],
        product_rates={"8": 40.0},
    )


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for result in (serve(100.0, 200.0), overhead()):
        write_result(path, result)
        assert read_result(path) == result
    assert json.loads(path.read_text())["verb"] == "overhead"
    assert json.loads(path.read_text())["schema"] == 1


def test_what_is_no_result_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"verb": "serve"}')
    for place, told in ((path, "is no result of engine-bench"), (tmp_path / "x", "No such file")):
        with pytest.raises(BadResult, match=told):
            read_result(place)
    with pytest.raises(BadResult, match="cannot be written"):
        write_result(tmp_path / "no" / "r.json", serve())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *((0.0, "0"), (0.00123, "0.00123"), (0.0949, "0.0949"), (0.095, "0.10"), (1.0, "1")),
        *((1.234, "1.23"), (9.99, "9.99"), (12.34, "12.3"), (99.94, "99.9"), (100.4, "100")),
        *((1234567.8, "1,234,568"), (-3.0, "-3")),
    ],
)
def test_a_number_has_three_digits_that_count(value: float, told: str) -> None:
    assert number(value) == told


def test_keys_do_not_enter_a_result() -> None:
    words = ["serve", "--header", "Authorization=Bearer s", "--", "--api-key=s", "--api-key", "s"]
    assert without_secrets(words) == [
        *("serve", "--header", "***", "--", "--api-key=***", "--api-key", "***")
    ]


def test_results_stand_side_by_side_with_ratios_to_the_first() -> None:
    lines = comparison_lines([serve(100.0, 200.0), serve(150.0, label="vLLM")], ["output tok/s"])
    assert lines[:4] == [
        "|                  | tiny |       vLLM |",
        "| ---              | ---: |       ---: |",
        "| c=1 output tok/s |  100 | 150 (1.50) |",
        "| c=8 output tok/s |  200 |          - |",
    ]
    assert "- vLLM: `engine-bench serve MODEL`" in lines[-1]


def test_what_is_not_there_is_not_compared() -> None:
    with pytest.raises(UsageError, match="no metric '.*'; there are: output tok/s, total tok/s"):
        comparison_lines([serve(1.0), serve(2.0)], ["tokens"])
    with pytest.raises(UsageError, match="there is no run to compare"):
        comparison_lines([serve(), serve()], None)


def test_runs_at_the_same_level_keep_a_row_each() -> None:
    twice = serve(100.0)
    twice = replace(twice, runs=[*twice.runs, figures(1, 120.0)])
    lines = comparison_lines([twice, serve(150.0)], ["output tok/s"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    assert rows == [
        ["c=1 output tok/s", "100", "150 (1.50)"],
        ["c=1 #2 output tok/s", "120", "-"],
    ]


def test_the_text_names_failures_and_a_generator_that_may_be_the_limit() -> None:
    text = "\n".join([*head_lines(serve(1.0)), *serve_lines(serve(100.0, 2e4), tuple(METRICS))])
    assert "c=8: FAILED 1 x HTTP 429 too_many_requests" in text
    assert "c=1: the load generator took 60% of a core" in text
    assert "c=1: others kept 0.7 cores busy meanwhile" in text
    assert "20,000" in text and "TPOT p95, ms" in text and "good (ttft:50)" in text


def test_overhead_tells_the_share_and_what_the_floor_is_made_of() -> None:
    text = "\n".join(overhead_lines(overhead()))
    for part in (
        "share of the floor",
        "65%",
        "81%",
        "HTTP side alone",
        "8 rows 40",
        "c=8: FAILED 1 x",
        "c=8, without the model: FAILED 1 x",
        "c=8, HTTP alone: FAILED 1 x",
        "--stub-worker",
    ):
        assert part in text


@pytest.mark.parametrize("result", [serve(100.0), serve(100.0, 200.0), overhead(), serve()])
def test_plots_are_drawn_of_runs_and_refused_of_none(result: Serve, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    if result.runs:
        draw(result, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(CannotDraw):
            draw(replace(result, label="x"), path)
