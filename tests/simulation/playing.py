"""Plays a scenario against the checking worker, with every invariant checked after every event."""

from checking_worker import CheckingWorker, output_token

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.core.invariants import check, check_quiet, check_step
from tokenreel.actors.core.scenario import Player, Scenario, ScenarioRequest, Transcript
from tokenreel.messages.codec import CoreEvent, Effect
from tokenreel.messages.sampling import FinishReason, derive_seed
from tokenreel.messages.steps import StepScheduled
from tokenreel.tools.replay.playing.write_watch import WriteWatch

VOCAB_SIZE = 1000


def limits(**changes: object) -> CoreConfig:
    """A small engine: 16 blocks of 4 tokens, 4 sequences, 16 tokens a step."""
    values: dict[str, object] = {
        "num_blocks": 16,
        "block_size": 4,
        "max_model_len": 64,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_in_flight": 64,
        "vocab_size": VOCAB_SIZE,
        **changes,
    }
    return CoreConfig(**values)  # type: ignore[arg-type]


class Watching:
    """Checks everything after every event."""

    def __init__(self) -> None:
        self._writes = WriteWatch()
        self._oldest = 0
        self._num_steps_without = 0

    def __call__(self, engine: Engine, event: CoreEvent, effects: list[Effect]) -> None:
        check(engine)
        check_step(engine, effects)
        self._writes.note(engine, effects)
        self._check_the_oldest_gets_on(engine, effects)

    def _check_the_oldest_gets_on(self, engine: Engine, effects: list[Effect]) -> None:
        """Rule 8: the first in the order, if it runs, is in one of every `depth` + 1 steps."""
        scheduled = [e.seq_id for s in effects if isinstance(s, StepScheduled) for e in s.scheduled]
        running = engine.queues.running
        if not running or not scheduled:
            return
        oldest = running[0]
        missed = oldest.seq_id not in scheduled and oldest.num_schedulable() > 0
        if oldest.seq_id != self._oldest or not missed:
            self._num_steps_without = 0
        self._oldest = oldest.seq_id
        self._num_steps_without += missed
        limit = engine.config.pipeline_depth
        assert self._num_steps_without <= limit, f"sequence {oldest.seq_id} is starved"


def play(config: CoreConfig, *requests: ScenarioRequest, max_turns: int = 2000) -> Transcript:
    """The transcript, after checking that everybody got exactly the tokens they should have."""
    scenario = Scenario(config=config, requests=requests, max_turns=max_turns)
    player = Player(scenario, CheckingWorker(config), Watching())
    transcript = player.play()
    check_quiet(player.engine)
    for (number, index), tokens in transcript.outputs.items():
        check_output(requests[number], number, index, tokens, transcript, config)
    return transcript


def check_output(
    request: ScenarioRequest,
    number: int,
    index: int,
    tokens: list[int],
    transcript: Transcript,
    config: CoreConfig,
) -> None:
    seed = derive_seed(number, index)
    assert tokens == [output_token(seed, k, config.vocab_size) for k in range(len(tokens))]
    reason = transcript.reasons[number, index]
    if reason is FinishReason.LENGTH:
        assert len(tokens) == request.max_tokens
    if reason is FinishReason.STOP and request.stop_after is not None:
        assert len(tokens) == request.stop_after
