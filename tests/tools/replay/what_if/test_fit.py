"""What is fitted from steps is what made them, and the told errors are those of the fit."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.messages.ids import StepId
from tokenreel.tools.replay.recording.values import RecordedStep, StepWork
from tokenreel.tools.replay.what_if.fit import NoSteps, StepFit, fit_latencies, fit_steps

US = 1000


def steps_of(
    shares_us: tuple[float, ...], num_steps: int = 60, noise: float = 0.0, seed: int = 1
) -> list[RecordedStep]:
    """Steps one behind the other, decode and prefill mixed, that take what the shares say."""
    rng = random.Random(seed)
    steps, now_ns = [], 1_000_000
    for number in range(num_steps):
        num_seqs = rng.randint(1, 32)
        num_prefill = rng.choice([0, 0, 0, rng.randint(1, 500)])
        num_context = num_seqs * rng.randint(50, 1000) + num_prefill
        num_pairs = num_context + num_prefill * num_prefill // 2
        work = StepWork(num_seqs + num_prefill, num_seqs, num_context, num_pairs)
        counts = (1, work.num_tokens, work.num_seqs, work.num_context, work.num_pairs)
        duration_us = sum(a * b for a, b in zip(shares_us, counts, strict=True))
        duration_us *= 1 + noise * rng.uniform(-1, 1)
        ended_ns = now_ns + round(duration_us * US)
        steps.append(RecordedStep(StepId(number + 1), work, now_ns - 5, now_ns, ended_ns, ended_ns))
        now_ns = ended_ns + 100 * US
    return steps


SHARES = st.tuples(
    st.floats(100, 10_000),
    st.floats(0, 100),
    st.floats(0, 500),
    st.floats(0, 1),
    st.floats(0, 0.1),
)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(SHARES)
def test_steps_without_noise_are_fitted_exactly(shares_us: tuple[float, ...]) -> None:
    steps = steps_of(shares_us)
    fit = fit_steps(steps)
    assert all(share >= 0 for share in fit.shares_us)
    assert fit.mean_error_percent < 0.01 and fit.r_squared > 0.9999
    for step in steps:
        expected = step.ended_ns - step.began_ns
        assert fit.duration_ns(step.work) == pytest.approx(expected, rel=1e-3)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(SHARES, st.floats(0.05, 0.5))
def test_all_steps_together_take_as_long_as_measured(
    shares_us: tuple[float, ...], noise: float
) -> None:
    steps = steps_of(shares_us, noise=noise)
    fit = fit_steps(steps)
    measured = sum(step.ended_ns - step.began_ns for step in steps)
    assert sum(fit.duration_ns(step.work) for step in steps) == pytest.approx(measured, rel=1e-3)
    assert all(share >= 0 for share in fit.shares_us)
    assert 0 < fit.mean_error_percent < 100 * noise


def test_no_share_is_negative_where_a_free_fit_would_have_one() -> None:
    works = [StepWork(n, n, 100 * n, 100 * n) for n in (1, 2, 4, 8)]
    steps = [
        RecordedStep(StepId(place), work, 0, 0, (1000 - 10 * work.num_tokens) * US, 0)
        for place, work in enumerate(works)
    ]
    fit = fit_steps(steps)
    assert fit.shares_us[1:] == (0, 0, 0, 0)
    assert fit.shares_us[0] == pytest.approx(962.5)


def test_where_all_prompts_are_alike_a_token_is_not_taken_for_its_pairs() -> None:
    rng = random.Random(1)
    steps = []
    for number in range(60):
        num_prompts, num_seqs = rng.choice([0, 0, 1, 3]), 16
        num_tokens = num_seqs - num_prompts + 128 * num_prompts
        num_context = num_seqs * 150
        num_pairs = num_context + num_prompts * 128 * 127 // 2
        work = StepWork(num_tokens, num_seqs, num_context, num_pairs)
        duration_us = (20_000 + 300 * num_tokens) * (1 + 0.02 * rng.uniform(-1, 1))
        steps.append(RecordedStep(StepId(number + 1), work, 0, 0, round(duration_us * US), 0))
    shares = fit_steps(steps).shares_us
    assert shares[1] == pytest.approx(300, rel=0.05) and shares[4] == 0


def test_pairs_count_where_prompts_differ_and_attention_is_what_costs() -> None:
    fit = fit_steps(steps_of((1000, 0, 0, 0, 0.1), noise=0.05))
    assert fit.shares_us[4] == pytest.approx(0.1, rel=0.1)


def test_the_told_errors_are_those_of_the_steps() -> None:
    steps = steps_of((1000, 5, 50, 0.1, 0.0), noise=0.3)
    fit = fit_steps(steps)
    errors = _errors_us(fit, steps)
    assert fit.mean_error_us == pytest.approx(sum(map(abs, errors)) / len(errors), abs=1e-2)
    assert sum(size.num_steps for size in fit.classes) == len(steps)
    for size in fit.classes:
        members = [
            error
            for step, error in zip(steps, errors, strict=True)
            if size.min_tokens <= step.work.num_tokens <= size.max_tokens
        ]
        assert len(members) == size.num_steps
        assert size.mean_error_us == pytest.approx(sum(map(abs, members)) / len(members), abs=1e-2)
        bias_us = size.bias_percent * size.mean_us / 100
        assert bias_us == pytest.approx(sum(members) / len(members), abs=1e-2)
    assert (fit.max_seqs, fit.max_tokens) == (
        max(step.work.num_seqs for step in steps),
        max(step.work.num_tokens for step in steps),
    )


def test_a_slow_phase_of_the_machine_shows_in_its_tenth() -> None:
    steps = steps_of((5000, 0, 100, 0, 0), num_steps=200)
    slow = [
        RecordedStep(
            step.step_id,
            step.work,
            step.scheduled_ns,
            step.began_ns,
            step.began_ns + (step.ended_ns - step.began_ns) * (2 if 60 <= place < 80 else 1),
            step.completed_ns,
        )
        for place, step in enumerate(steps)
    ]
    phases = fit_steps(slow).phases_percent
    assert len(phases) == 10
    assert phases[3] == max(phases) > 60
    assert all(phase < 0 for place, phase in enumerate(phases) if place != 3)


def test_without_steps_there_is_nothing_to_fit() -> None:
    with pytest.raises(NoSteps, match="no step was completed"):
        fit_steps([])


def test_one_step_is_its_own_fit() -> None:
    (step,) = steps_of((1000, 1, 1, 1, 1), num_steps=1)
    assert fit_steps([step]).duration_ns(step.work) == step.ended_ns - step.began_ns


def test_latencies_tell_an_idle_worker_from_a_busy_one() -> None:
    work = StepWork(1, 1, 1, 1)
    steps = []
    for number in range(20):  # depth 1: each step finds the worker idle
        at = number * 1000
        steps.append(RecordedStep(StepId(number + 1), work, at, at + 70, at + 570, at + 600))
    found = fit_latencies(steps, 1, [5, 6, 7])
    assert (found.turn_ns, found.dispatch_ns, found.return_ns) == (400, 70, 30)
    assert (found.turnover_ns, found.delivery_ns) == (0, 6)
    piped = [RecordedStep(StepId(1), work, 0, 9000, 10_000, 10_030)]
    for number in range(1, 20):  # depth 2: each step waits for the one before
        began = piped[-1].ended_ns + 12
        piped.append(
            RecordedStep(StepId(number + 1), work, began - 900, began, began + 1000, began + 1030)
        )
    found = fit_latencies(piped, 2, [])
    assert (found.turnover_ns, found.return_ns, found.delivery_ns) == (12, 30, 0)
    assert found.dispatch_ns == 42  # not the 9000 of the first step, which came to a cold worker


def _errors_us(fit: StepFit, steps: list[RecordedStep]) -> list[float]:
    return [(fit.duration_ns(step.work) - (step.ended_ns - step.began_ns)) / US for step in steps]
