"""A plan covers each token once, gathers little more than the contexts, and little at a time."""

from typing import Any

import torch

from tokenreel.kernels.sequence_groups import MAX_GROUP_BYTES, MAX_QUERY_TILE, Plan, plan_groups


def plan(step: Any, kv_bytes_per_token: int = 1024) -> Plan:
    return plan_groups(
        step.metadata,
        block_size=step.key_cache.shape[1],
        kv_bytes_per_token=kv_bytes_per_token,
        sliding_window=step.sliding_window,
        dtype=torch.float32,
    )


def test_every_token_is_in_one_group(make_step: Any) -> None:
    step = make_step([(1, 9), (30, 30), (1, 200), (0, 7), (300, 350), (1, 0), (1, 8)])
    made = plan(step)
    covered = [token for group in made.groups for token in range(3000)[group.tokens]]
    assert covered == list(range(step.query.shape[0] - 1))
    assert made.num_grouped_tokens == len(covered)
    assert made.order is not None and made.inverse is not None
    assert sorted(made.order.tolist()) == list(range(step.query.shape[0]))
    assert torch.equal(made.order[made.inverse], torch.arange(step.query.shape[0]))


def test_a_step_in_order_is_not_reordered(make_step: Any) -> None:
    assert plan(make_step([(1, 90), (1, 100), (1, 95), (50, 50)])).order is None


def test_a_group_of_several_sequences_fits_the_cache(make_step: Any) -> None:
    step = make_step([(1, 100 + n % 17) for n in range(64)], num_kv_heads=1, head_dim=8)
    for group in plan(step, kv_bytes_per_token=8192).groups:
        gathered = group.num_seqs * group.key_len * 8192
        assert group.num_seqs == 1 or gathered <= MAX_GROUP_BYTES


def test_a_sequence_larger_than_the_cache_stands_alone(make_step: Any) -> None:
    step = make_step([(1, 400), (1, 400)], num_kv_heads=1, head_dim=8)
    assert [group.num_seqs for group in plan(step, MAX_GROUP_BYTES).groups] == [1, 1]


def test_padding_is_a_small_part_of_what_is_gathered(make_step: Any) -> None:
    lengths = [(1, 1 + (n * 37) % 900) for n in range(80)] + [(1, 3000)]
    step = make_step(lengths, num_kv_heads=1, head_dim=8)
    gathered = sum(group.num_seqs * group.key_len for group in plan(step).groups)
    assert gathered <= 1.3 * sum(context_len for _, context_len in lengths)


def test_masks_of_long_chunks_are_cut(make_step: Any) -> None:
    step = make_step([(1000, 1200)], num_kv_heads=1, head_dim=8)
    groups = plan(step).groups
    assert len(groups) == 4
    for group in groups:
        assert group.mask is not None
        assert group.mask.shape[0] <= MAX_QUERY_TILE
        # No tile gathers keys that none of its queries see.
        assert group.mask.shape[1] == 200 + group.tokens.stop


def test_a_window_gathers_no_key_that_nobody_sees(make_step: Any) -> None:
    step = make_step([(1, 500), (300, 500)], num_kv_heads=1, head_dim=8, sliding_window=50)
    assert [group.key_len for group in plan(step).groups] == [50, 305, 93]


def test_a_whole_prompt_needs_no_mask(make_step: Any) -> None:
    (group,) = plan(make_step([(700, 700)], num_kv_heads=1, head_dim=8)).groups
    assert group.is_causal
    assert group.mask is None
