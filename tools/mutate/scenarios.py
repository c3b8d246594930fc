"""Small runs that go through every corner of the core: each mutant should fall in one of them."""

from collections.abc import Callable

from tokenreel.actors.core.config import CoreConfig
from tokenreel.actors.core.scenario import Scenario, ScenarioRequest


def _limits(**changes: object) -> CoreConfig:
    """16 blocks of 4 tokens, 6 sequences, 24 tokens a step."""
    values: dict[str, object] = {
        "num_blocks": 16,
        "block_size": 4,
        "max_model_len": 64,
        "max_num_seqs": 6,
        "max_num_batched_tokens": 24,
        "max_in_flight": 64,
        "vocab_size": 100,
        **changes,
    }
    return CoreConfig(**values)  # type: ignore[arg-type]


def _requests(
    number: int, request: Callable[[int], ScenarioRequest]
) -> tuple[ScenarioRequest, ...]:
    return tuple(request(index) for index in range(number))


def _mixed(depth: int) -> Scenario:
    """Too little room for everybody: preemptions, prefix hits, aborts, stop strings, n > 1."""
    return Scenario(
        config=_limits(pipeline_depth=depth),
        requests=_requests(
            36,
            lambda i: ScenarioRequest(
                num_prompt_tokens=5 + 3 * (i % 7),
                max_tokens=10 + i % 25,
                arrival=i // 2,
                priority=i % 3,  # which says nothing: first come, first served
                n=2 if i % 5 == 0 else 1,
                prefix_group=i % 3,
                num_shared_tokens=9,
                abort_turn=i + 6 if i % 8 == 3 else None,
                stop_after=3 if i % 6 == 1 else None,
                stop_delay=i % 4,
            ),
        ),
    )


def _priorities(depth: int, num_blocks: int) -> Scenario:
    """Urgent requests displace others, some of which hold nothing but a shared prefix."""
    return Scenario(
        config=_limits(
            num_blocks=num_blocks,
            max_model_len=4 * num_blocks,
            max_num_seqs=4,
            max_num_batched_tokens=7,
            scheduling_policy="priority",
            pipeline_depth=depth,
        ),
        requests=_requests(
            40,
            lambda i: ScenarioRequest(
                num_prompt_tokens=1 + 5 * i % 11,
                max_tokens=2 + 7 * i % 12,
                arrival=i + i % 5,
                priority=(9, 0, 1, 4, 2)[i % 5],
                prefix_group=1 + i % 2 if i % 4 else 0,
                num_shared_tokens=8,
                ends_after=3 if i % 9 == 4 else None,
            ),
        ),
    )


def _siblings(prefix_caching: bool) -> Scenario:
    """Requests of up to four sequences, whose first may fail or be aborted before its prompt is
    computed."""
    return Scenario(
        config=_limits(
            num_blocks=40,
            max_num_seqs=8,
            max_num_batched_tokens=10,
            enable_prefix_caching=prefix_caching,
        ),
        requests=_requests(
            24,
            lambda i: ScenarioRequest(
                num_prompt_tokens=4 + 5 * i % 27,
                max_tokens=3 + i % 9,
                arrival=2 * i,
                n=1 + i % 4,
                prefix_group=i % 2,
                num_shared_tokens=12,
                abort_turn=2 * i + 2 if i % 7 == 3 else None,
                fails_at=(1, 0, 2) if i % 5 == 2 else None,
                ends_after=(2, 5, 0, 3) if i % 3 == 0 else None,
            ),
        ),
    )


def _conversations(block_size: int) -> Scenario:
    """Prompts that go on from one another, in a cache that cannot hold them all."""
    return Scenario(
        config=_limits(
            num_blocks=96 // block_size,
            block_size=block_size,
            max_model_len=64,
            max_num_seqs=3,
            max_num_batched_tokens=32,
        ),
        requests=_requests(
            30,
            lambda i: ScenarioRequest(
                num_prompt_tokens=(8, 16, 24, 32, 20)[i % 5] + i % 2,
                max_tokens=4 + i % 6,
                arrival=3 * i,
                prefix_group=(1, 2 + i % 3),
                num_shared_tokens=(8, 24),
            ),
        ),
    )


def _long_prompts(depth: int) -> Scenario:
    """Prompts of many chunks, which compete for a small budget."""
    return Scenario(
        config=_limits(
            num_blocks=24, max_model_len=80, max_num_batched_tokens=9, pipeline_depth=depth
        ),
        requests=_requests(
            20,
            lambda i: ScenarioRequest(
                num_prompt_tokens=2 + 13 * i % 41,
                max_tokens=1 + i % 14,
                arrival=2 * i,
                abort_turn=2 * i + 3 if i % 4 == 1 else None,
            ),
        ),
    )


def _stops() -> Scenario:
    """Ends of every kind, known early and late, while steps are open."""
    return Scenario(
        config=_limits(num_blocks=60, max_num_seqs=8, pipeline_depth=3, max_in_flight=9),
        turns_per_step=2,
        requests=_requests(
            48,
            lambda i: ScenarioRequest(
                num_prompt_tokens=3 + i % 6,
                max_tokens=(6, 5, 4)[i % 3],
                arrival=i,
                n=2 if i % 11 == 5 else 1,
                stop_after=1 + i % 5 if i % 4 == 1 else None,
                stop_delay=i % 7,
                ends_after=4 if i % 4 == 2 else None,
                abort_after=2 if i % 6 == 3 else None,
                abort_delay=i % 3,
                abort_turn=i - 1 if i % 10 == 7 else None,
                stop_token_ids=(1 + i, 2 + i) if i % 3 == 0 else (),
            ),
        ),
    )


def _late_stops() -> Scenario:
    """Stop strings that are found when the sequence has just ended for its length."""
    return Scenario(
        config=_limits(num_blocks=60),
        requests=_requests(
            12,
            lambda i: ScenarioRequest(
                num_prompt_tokens=3 + i,
                max_tokens=8,
                arrival=3 * i,
                stop_after=2 + i % 5,
                stop_delay=6 - i % 5,
            ),
        ),
    )


def _juniors_with_a_prefix() -> Scenario:
    """The last in the order hold nothing but blocks that others hold, too."""
    return Scenario(
        config=_limits(
            num_blocks=8,
            block_size=1,
            max_model_len=8,
            max_num_batched_tokens=2,
            scheduling_policy="priority",
            pipeline_depth=1,
        ),
        requests=(
            ScenarioRequest(
                num_prompt_tokens=1, max_tokens=3, priority=4, prefix_group=1, num_shared_tokens=2
            ),
            ScenarioRequest(num_prompt_tokens=3, max_tokens=1, arrival=2),
            ScenarioRequest(
                num_prompt_tokens=3,
                max_tokens=4,
                arrival=3,
                n=2,
                prefix_group=1,
                num_shared_tokens=3,
            ),
        ),
    )


def _gives_way_half_way() -> Scenario:
    """A sequence gives way that has blocks for more of its prompt than open steps compute."""
    return Scenario(
        config=_limits(num_blocks=9, block_size=8, max_num_seqs=2, max_num_batched_tokens=4),
        requests=(
            ScenarioRequest(num_prompt_tokens=22, max_tokens=12),
            ScenarioRequest(num_prompt_tokens=33, max_tokens=1, arrival=3),
        ),
    )


def _gives_way_to_nobody() -> Scenario:
    """A step that schedules nothing, but takes something back."""
    return Scenario(
        config=_limits(num_blocks=7, block_size=8, max_model_len=56, max_num_batched_tokens=4),
        requests=(
            ScenarioRequest(num_prompt_tokens=23, max_tokens=11),
            ScenarioRequest(num_prompt_tokens=9, max_tokens=9),
        ),
    )


def _strangers() -> Scenario:
    """For `capture.Strangers`, who say what nobody should."""
    return Scenario(
        config=_limits(max_in_flight=12),
        requests=_requests(
            30,
            lambda i: ScenarioRequest(
                num_prompt_tokens=3 + i % 9,
                max_tokens=4 + i % 7,
                arrival=2 * i,
                n=1 + i % 2,
            ),
        ),
    )


SCENARIOS: dict[str, Scenario] = {
    "mixed-depth-1": _mixed(1),
    "mixed-depth-2": _mixed(2),
    "mixed-depth-3": _mixed(3),
    "priorities-depth-1": _priorities(1, 8),
    "priorities-depth-2": _priorities(2, 6),
    "priorities-depth-3": _priorities(3, 12),
    "siblings": _siblings(True),
    "siblings-without-cache": _siblings(False),
    "conversations": _conversations(4),
    "conversations-small-blocks": _conversations(2),
    "long-prompts": _long_prompts(2),
    "stops": _stops(),
    "late-stops": _late_stops(),
    "juniors-with-a-prefix": _juniors_with_a_prefix(),
    "gives-way-half-way": _gives_way_half_way(),
    "gives-way-to-nobody": _gives_way_to_nobody(),
    "strangers": _strangers(),
}
