"""What a journal is for: the engine dies, and what happened can be found out afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from captured_run import outputs_by_seed
from running_engine import RunningEngine, verify
from tokenizers import Tokenizer

from tokenreel.tools.up_flags import DEMO_MODEL

StartEngine = Callable[..., RunningEngine]
REQUEST: Any = {"model": "tokenreel-demo", "prompt": "x", "stream": True}
BUG = """\
from tokenreel.actors.core.engine import Engine
from tokenreel.messages.requests import AbortRequest, AdmitRequest
from tokenreel.messages.steps import StepCompleted

apply = Engine.apply


def faulty(self, event):
    if isinstance(event, StepCompleted) and len(self.requests) > 2:
        raise KeyError(f"{len(self.requests)} requests at step {event.step_id}")
    return apply(self, event)


Engine.apply = faulty
"""


def test_killed_in_mid_stream_it_has_written_down_every_token_that_a_client_saw(
    start_engine: StartEngine,
) -> None:
    engine = start_engine("--stub-worker").wait_until_ready()
    seeds, n = range(8), 3
    seen = {seed: [""] * n for seed in seeds}
    with engine.client() as client:
        streams = {
            seed: iter(client.completions.create(**REQUEST, seed=seed, n=n, max_tokens=2000))
            for seed in seeds
        }
        for seed, stream in streams.items():
            take(next(stream), seen[seed])
        engine.kill_everything()
        for seed, stream in streams.items():
            with pytest.raises((openai.APIError, httpx.HTTPError)):
                for chunk in stream:
                    take(chunk, seen[seed])
    engine.wait_until_actors_are_gone()
    verdict = verify(engine.journal)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "did not end tidily" in verdict.stdout
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    outputs = outputs_by_seed(engine.journal)
    for seed in seeds:
        for text, output in zip(seen[seed], outputs[seed], strict=True):
            assert tokenizer.decode(output.token_ids).startswith(text)
        assert any(seen[seed])


def take(chunk: openai.types.Completion, texts: list[str]) -> None:
    for choice in chunk.choices:
        texts[choice.index] += choice.text


def test_the_next_start_clears_away_after_a_killed_engine(start_engine: StartEngine) -> None:
    """Its sockets and options lie where the next engine of the same user looks."""
    killed = start_engine("--stub-worker").wait_until_ready()
    killed.kill_everything()
    killed.wait_until_actors_are_gone()
    (stale,) = killed.temporary.iterdir()
    successor = start_engine("--stub-worker", environment={"TMPDIR": str(killed.temporary)})
    successor.wait_until_ready()
    assert not stale.exists()
    successor.stop()
    assert list(killed.temporary.iterdir()) == []


def test_a_core_that_raises_fails_again_in_the_replay(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    """The core is given a bug, from outside: three requests at once are too many for it."""
    (tmp_path / "sitecustomize.py").write_text(BUG)
    bug = {"PYTHONPATH": str(tmp_path)}
    engine = start_engine("--stub-worker", environment=bug).wait_until_ready()
    with engine.client() as client:
        text = client.completions.create(model="tokenreel-demo", prompt="x", max_tokens=5)
        assert text.choices[0].finish_reason == "length"
        engine.freeze("worker")
        streams = [client.completions.create(**REQUEST, max_tokens=50) for _ in range(3)]
        engine.thaw("worker")
        for stream in streams:
            with pytest.raises(openai.APIError, match="engine_core"):
                list(stream)
    assert engine.wait_for_exit() == 1
    (complaint,) = engine.complaints
    assert complaint.startswith("engine-up: engine_core failed: KeyError: '3 requests at step")
    reproduced = verify(engine.journal, **bug)
    assert reproduced.returncode == 0, reproduced.stdout + reproduced.stderr
    assert "reproduced CoreFailed" in reproduced.stdout
    assert "KeyError: '3 requests at step" in reproduced.stdout
    # Without the bug the same inputs go through: that is a difference, and told as one.
    assert verify(engine.journal).returncode == 3
