"""The worker without a model: predictable tokens, and no patience with a wrong step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.runtime.clock import SystemClock
from tokenreel.actors.stub_worker import (
    DEFAULT_NUM_BLOCKS,
    FIRST_TOKEN_ID,
    StepRefused,
    StubBatch,
    stub_token,
    worker_ready,
)
from tokenreel.messages.ids import BlockId, Row, SeqId, StepId
from tokenreel.messages.logprobs import SequenceLogprobs, decode_logprobs
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.sampling import SamplingParams
from tokenreel.messages.steps import (
    AddedSequence,
    SampledTokens,
    ScheduledSequence,
    StepCompleted,
    StepScheduled,
)

VOCABULARY = 100
CLOCK = SystemClock()


def batch() -> StubBatch:
    return StubBatch(vocab_size=VOCABULARY, num_blocks=8, block_size=4, max_rows=2)


def added(
    seq_id: int = 1,
    row: int = 0,
    tokens: int = 6,
    prompt: int | None = None,
    blocks: tuple[int, ...] = (),
    sampling: SamplingParams | None = None,
) -> AddedSequence:
    return AddedSequence(
        SeqId(seq_id),
        Row(row),
        list(range(3, 3 + tokens)),
        tokens if prompt is None else prompt,
        [BlockId(block) for block in blocks],
        sampling or SamplingParams(seed=5),
    )


def entry(
    start: int, num: int, logits: int, blocks: tuple[int, ...] = (), seq_id: int = 1, row: int = 0
) -> ScheduledSequence:
    new = [BlockId(block) for block in blocks]
    return ScheduledSequence(SeqId(seq_id), Row(row), start, num, logits, new)


def run(
    batch: StubBatch,
    *scheduled: ScheduledSequence,
    add: tuple[AddedSequence, ...] = (),
    remove: tuple[int, ...] = (),
) -> tuple[StepCompleted, bytes]:
    rows = [Row(row) for row in remove]
    return batch.execute(StepScheduled(StepId(1), list(add), rows, list(scheduled)), CLOCK)


@settings(derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 10**6),
    vocab_size=st.integers(FIRST_TOKEN_ID + 1, 200_000),
)
def test_tokens_are_valid_and_depend_on_seed_and_position_alone(
    seed: int, index: int, vocab_size: int
) -> None:
    token = stub_token(seed, index, vocab_size)
    assert FIRST_TOKEN_ID <= token < vocab_size
    assert token == stub_token(seed, index, vocab_size)


def test_tokens_count_upwards() -> None:
    first = stub_token(7, 0, VOCABULARY)
    span = VOCABULARY - FIRST_TOKEN_ID
    expected = [FIRST_TOKEN_ID + (first - FIRST_TOKEN_ID + index) % span for index in range(300)]
    assert [stub_token(7, index, VOCABULARY) for index in range(300)] == expected


def test_seeds_start_at_different_places() -> None:
    assert len({stub_token(seed, 0, 50_000) for seed in range(50)}) == 50


def test_stop_tokens_are_stepped_over_while_there_is_another() -> None:
    everything = range(FIRST_TOKEN_ID, VOCABULARY)
    for stop in everything:
        assert stub_token(1, 0, VOCABULARY, {stop}) != stop
    assert stub_token(1, 0, VOCABULARY, set(everything) - {50}) == 50
    assert stub_token(1, 0, VOCABULARY, everything) in everything


def test_a_chunked_prompt_yields_its_first_token_at_its_end() -> None:
    stub = batch()
    completed, _ = run(stub, entry(0, 4, 0, (1,)), add=(added(),))
    assert completed.outputs == []
    completed, attachment = run(stub, entry(4, 2, 1, (2,)))
    assert completed.outputs == [SampledTokens(SeqId(1), [stub_token(5, 0, VOCABULARY)])]
    assert completed.step_id == 1 and completed.began_ns <= completed.ended_ns
    assert attachment == b""
    completed, _ = run(stub, entry(6, 1, 1))
    assert completed.outputs == [SampledTokens(SeqId(1), [stub_token(5, 1, VOCABULARY)])]


def test_a_resumed_sequence_goes_on_where_it_was() -> None:
    resumed = added(tokens=9, prompt=6)
    completed, _ = run(batch(), entry(0, 9, 1, (1, 2, 3)), add=(resumed,))
    assert completed.outputs[0].token_ids == [stub_token(5, 3, VOCABULARY)]


def test_a_prefix_hit_starts_behind_the_cached_blocks() -> None:
    completed, _ = run(batch(), entry(4, 2, 1, (2,)), add=(added(blocks=(1,)),))
    assert len(completed.outputs) == 1


def test_a_row_can_be_freed_and_given_away_in_one_step() -> None:
    stub = batch()
    run(stub, entry(0, 6, 1, (1, 2)), add=(added(),))
    run(stub, entry(0, 6, 1, (3, 4), seq_id=2), add=(added(2),), remove=(0,))
    assert stub.num_rows == 1
    run(stub, remove=(0,))
    assert stub.num_rows == 0


def test_logprobs_come_for_those_who_asked() -> None:
    asks = added(sampling=SamplingParams(seed=5, num_logprobs=3))
    other = added(2, row=1)
    scheduled = (entry(0, 6, 1, (1, 2)), entry(0, 6, 1, (3, 4), seq_id=2, row=1))
    _, attachment = run(batch(), *scheduled, add=(asks, other))
    token = stub_token(5, 0, VOCABULARY)
    assert decode_logprobs(attachment) == [
        SequenceLogprobs(SeqId(1), [-0.5], [[token, token + 1, token + 2]], [[-0.5, -1.5, -2.5]])
    ]


@pytest.mark.parametrize(
    ("scheduled", "complaint"),
    [
        (entry(0, 6, 1, (1, 2), seq_id=9), "row 0 holds sequence 1"),
        (entry(0, 6, 1, (1, 2), row=1), "row 1 holds nobody"),
        (entry(0, 6, 1, (1,)), "position 5 has no block"),
        (entry(0, 6, 1, (1, 8)), "block 8 of 8"),
        (entry(0, 7, 1, (1, 2)), "with 6 known tokens"),
        (entry(0, 5, 1, (1, 2)), "1 logits after position 4"),
        (entry(0, 0, 0, ()), "positions"),
    ],
)
def test_an_impossible_step_is_refused(scheduled: ScheduledSequence, complaint: str) -> None:
    with pytest.raises(StepRefused, match=complaint):
        run(batch(), scheduled, add=(added(),))


def test_a_step_that_skips_positions_is_refused() -> None:
    stub = batch()
    run(stub, entry(0, 2, 0, (1,)), add=(added(),))
    with pytest.raises(StepRefused, match="after 2 computed"):
        run(stub, entry(3, 1, 0))


def test_removing_an_empty_row_is_refused() -> None:
    with pytest.raises(StepRefused, match="row 1, which is empty"):
        run(batch(), remove=(1,))


def test_a_row_outside_the_batch_is_refused() -> None:
    with pytest.raises(StepRefused, match="row 2 of 2"):
        run(batch(), add=(added(row=2),))


def model(path: Path, config: object) -> EngineOptions:
    (path / "config.json").write_text(json.dumps(config))
    return EngineOptions(model=str(path), served_model_name="stub")


def test_facts_come_from_config_json_and_the_options(tmp_path: Path) -> None:
    options = model(tmp_path, {"vocab_size": 512, "max_position_embeddings": 2048})
    ready = worker_ready(options)
    assert (ready.vocab_size, ready.max_model_len, ready.block_size) == (512, 2048, 16)
    assert ready.num_blocks == DEFAULT_NUM_BLOCKS
    assert len(ready.model_hash) == 16


def test_the_users_limits_win_when_they_are_smaller(tmp_path: Path) -> None:
    model(tmp_path, {"vocab_size": 512, "max_position_embeddings": 2048})
    options = EngineOptions(
        model=str(tmp_path), served_model_name="s", max_model_len=64, num_gpu_blocks_override=9
    )
    assert (worker_ready(options).max_model_len, worker_ready(options).num_blocks) == (64, 9)


@pytest.mark.parametrize("config", [{}, {"vocab_size": "many"}, {"vocab_size": 3}, []])
def test_a_config_that_says_nothing_usable_is_a_start_error(tmp_path: Path, config: object) -> None:
    with pytest.raises(StartError, match=r"config\.json"):
        worker_ready(model(tmp_path, config))


def test_a_missing_config_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"config\.json cannot be used"):
        worker_ready(EngineOptions(model=str(tmp_path), served_model_name="s"))


def test_it_runs_without_torch() -> None:
    code = "import sys, tokenreel.actors.stub_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
