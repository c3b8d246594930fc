"""What is asked, and when, follows from the seed and the flags alone."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from capturing import capture
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tokenreel.messages.requests import AdmitRequest
from tokenreel.tools.bench.workload.arrivals import arrive
from tokenreel.tools.bench.workload.journal_trace import read_journal
from tokenreel.tools.bench.workload.lines import BadWorkload
from tokenreel.tools.bench.workload.prompts import Prompt, RandomPrompts, batch_of, read_prompts
from tokenreel.tools.bench.workload.trace_file import TraceForm, read_trace
from tokenreel.tools.replay.reading.events import recorded_events
from tokenreel.tools.replay.reading.journal import open_journal

FORM = TraceForm(vocab_size=100, block_size=4)


def series(seed: str = "0", **changes: int | float) -> RandomPrompts:
    standard = RandomPrompts(input_len=20, output_len=8, vocab_size=100, seed=seed)
    return replace(standard, **changes)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 30), st.floats(0, 1), st.integers(2, 1000))
def test_lengths_and_ids_stay_within_what_was_asked_for(
    input_len: int, output_len: int, ratio: float, vocab_size: int
) -> None:
    lengths = {"input_len": input_len, "output_len": output_len, "vocab_size": vocab_size}
    for prompt in series(range_ratio=ratio, **lengths).make(20):
        assert abs(len(prompt.content) - input_len) <= max(round(input_len * ratio), 1)
        assert abs(prompt.num_output_tokens - output_len) <= max(round(output_len * ratio), 1)
        assert prompt.num_output_tokens >= 1 and prompt.content
        assert all(isinstance(token, int) and 0 <= token < vocab_size for token in prompt.content)


def test_a_seed_gives_the_same_series_and_another_seed_another() -> None:
    assert series().make(5) == series().make(9)[:5]
    assert series().make(5) != series("1").make(5)


def test_prompts_share_as_many_prefixes_as_were_asked_for() -> None:
    prompts = series(prefix_len=16, num_prefixes=3).make(60)
    prefixes = {tuple(prompt.content[:16]) for prompt in prompts}
    assert len(prefixes) == 3
    assert {len(prompt.content) for prompt in prompts} == {36}
    assert len({tuple(prompt.content) for prompt in prompts}) == 60


def test_a_batch_is_one_request_with_every_prompt() -> None:
    batch = batch_of(series().make(3))
    assert batch.content == [prompt.content for prompt in series().make(3)]
    assert (batch.num_output_tokens, batch.num_sequences) == (8, 3)


def test_arrivals_have_the_rate_that_was_asked_for_on_average() -> None:
    prompts = [Prompt([1], 1)] * 4000
    for burstiness in (0.5, 1.0, 4.0, math.inf):
        due = [p.due_s for p in arrive(prompts, request_rate=50, burstiness=burstiness, seed=3)]
        gaps = [after - before for before, after in pairwise(due)]
        mean = sum(gaps) / len(gaps)
        variation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean
        assert due[0] == 0 and mean == pytest.approx(1 / 50, rel=0.08)
        assert variation == pytest.approx(1 / math.sqrt(burstiness), rel=0.1, abs=1e-6)


def test_a_trace_comes_as_it_was_and_equal_ids_are_equal_tokens(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 500, "input_length": 10, "output_length": 3, "hash_ids": [7, 8]},
        {"timestamp": 700, "input_length": 6, "output_length": 1, "hash_ids": [7, 9]},
        {"timestamp": 700, "input_length": 5, "output_length": 2},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)))
    form = TraceForm(vocab_size=100, block_size=4, seconds_per_unit=0.001)
    first, second, third = read_trace(path, form, None)
    assert [first.due_s, second.due_s, third.due_s] == pytest.approx([0, 0.2, 0.2])
    assert [len(p.content) for p in (first, second, third)] == [10, 6, 5]
    assert [p.num_output_tokens for p in (first, second, third)] == [3, 1, 2]
    assert first.content[:4] == second.content[:4] != first.content[4:8]
    assert read_trace(path, form, 2) == [first, second]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{}"], "line 1: Object missing required field `timestamp`"),
        (['{"timestamp": 0, "input_length": 0, "output_length": 1}'], "line 1: Expected `int`"),
        (["nonsense"], "line 1: JSON is malformed"),
        ([], "holds no request"),
        (
            [
                '{"timestamp": 2, "input_length": 1, "output_length": 1}',
                '{"timestamp": 1, "input_length": 1, "output_length": 1}',
            ],
            "line 2: timestamps go back",
        ),
    ],
)
def test_a_trace_that_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, lines: list[str], told: str
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(BadWorkload, match=told):
        read_trace(path, FORM, None)
    with pytest.raises(BadWorkload, match="No such file"):
        read_trace(tmp_path / "nowhere", FORM, None)


def test_prompts_come_from_a_file_again_and_again(tmp_path: Path) -> None:
    text, objects = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    text.write_text("one\n\ntwo\n")
    assert [p.content for p in read_prompts(text, 3, 9)] == ["one", "two", "one"]
    text.write_bytes("one\u2028a\u0085b\x0cc\r\ntwo".encode())
    assert [p.content for p in read_prompts(text, 2, 9)] == ["one\u2028a\u0085b\x0cc", "two"]
    objects.write_text('{"prompt": "one", "output_tokens": 4}\n{"prompt": [1, 2]}\n')
    assert read_prompts(objects, None, 9) == [Prompt("one", 4), Prompt([1, 2], 9)]
    objects.write_text('{"prompt": ""}')
    with pytest.raises(BadWorkload, match="line 1: the prompt is empty"):
        read_prompts(objects, None, 9)


def test_a_captured_run_comes_again_as_its_core_met_it(tmp_path: Path) -> None:
    run = capture(tmp_path)
    admits = [
        (event.t_ns, event.event)
        for event in recorded_events(open_journal(run))
        if isinstance(event.event, AdmitRequest)
    ]
    prompts = read_journal(run, None, None)
    assert [p.content for p in prompts] == [admit.prompt_token_ids for _, admit in admits]
    due = [(t_ns - admits[0][0]) / 1e9 for t_ns, _ in admits]
    assert [p.due_s for p in prompts] == pytest.approx(due)
    assert [p.due_s for p in read_journal(run, None, 7, 2.0)] == pytest.approx(
        [2 * at for at in due[:7]]
    )
    limits = [admit.stopping.max_tokens for _, admit in admits]
    assert all(1 <= p.num_output_tokens <= x for p, x in zip(prompts, limits, strict=True))
    assert any(p.num_output_tokens < x for p, x in zip(prompts, limits, strict=True)), "aborts"


def test_a_smaller_vocabulary_keeps_what_is_shared_shared(tmp_path: Path) -> None:
    run = capture(tmp_path)
    before, after = read_journal(run, None, None), read_journal(run, 40, None)
    assert max(max(p.content) for p in after) < 40  # type: ignore[type-var]
    for one, other in zip(before, after, strict=True):
        assert len(one.content) == len(other.content)
    shared = [p.content[:9] == before[0].content[:9] for p in before]
    assert [p.content[:9] == after[0].content[:9] for p in after] == shared


def test_what_is_no_journal_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadWorkload, match="holds no journal segments"):
        read_journal(tmp_path, None, None)
