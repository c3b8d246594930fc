"""Figures follow from what was noted, by hand."""

from array import array

import pytest

from tokenreel.tools.bench.client.load import Measured, Outcome
from tokenreel.tools.bench.results.figures import Figures, figures_of, spread_of


def served(sent_s: float, *stamps_s: float, num_tokens: int, num_prompt: int = 4) -> Outcome:
    """The clock of the load starts at 100 s."""
    stamps = array("d", [100 + at for at in stamps_s])
    return Outcome(
        sent_s=sent_s,
        ended_s=stamps_s[-1],
        stamps=stamps,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_tokens,
    )


MEASURED = Measured(
    outcomes=[
        served(0.0, 0.5, 0.6, 0.8, num_tokens=4),
        served(1.0, 1.2, num_tokens=1),
        Outcome(1.0, 3.0, failure="timed out"),
        Outcome(1.0, 3.0, failure="timed out"),
    ],
    began=100.0,
    duration_s=4.0,
    cpu_s=0.5,
    num_cut_short=0,
)


def figures(**limits_ms: float) -> Figures:
    return figures_of(MEASURED, {"worker": 2.0}, 1.0, max_concurrency=2, limits_ms=limits_ms)


def test_rates_are_of_what_was_served_over_the_whole_load() -> None:
    found = figures()
    assert (found.num_requests, found.num_completed, found.num_failed) == (4, 2, 2)
    assert found.failures == {"timed out": 2}
    assert found.output_tokens_per_s == pytest.approx(5 / 4)
    assert found.total_tokens_per_s == pytest.approx(13 / 4)
    assert found.requests_per_s == pytest.approx(2 / 4)


def test_latencies_are_what_a_client_met() -> None:
    found = figures()
    assert found.ttft_ms.mean == pytest.approx((500 + 200) / 2)
    assert (found.tpot_ms.count, found.tpot_ms.mean) == (1, pytest.approx(100)), "3 tokens, 0.3 s"
    assert (found.itl_ms.count, found.itl_ms.max) == (2, pytest.approx(200))
    assert found.e2el_ms.max == pytest.approx(800)
    assert found.samples_ms["ttft"] == [200, 500]


@pytest.mark.parametrize(
    ("limits_ms", "num_good"),
    [
        ({"ttft": 600.0}, 2),
        ({"ttft": 300.0}, 1),
        ({"ttft": 600.0, "tpot": 90.0}, 1),
        ({"e2el": 100.0}, 0),
    ],
)
def test_goodput_counts_those_within_every_limit_of_all_that_were_sent(
    limits_ms: dict[str, float], num_good: int
) -> None:
    goodput = figures(**limits_ms).goodput
    assert goodput is not None
    assert (goodput.num_good, goodput.share) == (num_good, num_good / 4)
    assert goodput.requests_per_s == pytest.approx(num_good / 4)


def test_processor_time_is_told_per_token_and_as_a_share_of_a_core() -> None:
    found = figures()
    (worker,) = found.actors
    assert (worker.cpu_us_per_token, worker.core_share) == (pytest.approx(4e5), 0.5)
    assert found.generator.cpu_us_per_token == pytest.approx(1e5)
    assert found.generator.core_share == pytest.approx(0.125)
    assert found.others_cores == 0.25


def test_each_request_can_be_told() -> None:
    found = figures_of(MEASURED, {}, max_concurrency=None, limits_ms={}, has_requests=True)
    assert found.requests is not None
    assert [each.ttft_ms for each in found.requests] == [pytest.approx(500), pytest.approx(200)] + [
        None
    ] * 2
    assert found.requests[0].itls_ms == pytest.approx([100, 200])


def test_percentiles_of_nothing_are_none_of_anybodys_business() -> None:
    assert spread_of([]).count == 0
    assert spread_of([3.0]).p99 == 3.0
    assert spread_of(list(range(101))).p95 == 95
