"""A variant says what `engine-up` would do with it, or what is wrong with it, in one line."""

import pytest
from capturing import CONFIG

from tokenreel.tools.replay.what_if.variants import (
    SETTINGS,
    SHORT_NAMES,
    VariantError,
    make_variant,
    name_of_settings,
    parse_variant,
)


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    variant = parse_variant("deep: pipeline_depth=3, scheduling_policy=priority", CONFIG)
    assert variant.name == "deep"
    assert variant.settings == {"pipeline_depth": 3, "scheduling_policy": "priority"}
    assert variant.config.pipeline_depth == 3
    assert variant.config.scheduling_policy == "priority"
    for name in ("num_blocks", "block_size", "max_num_seqs", "max_in_flight", "vocab_size"):
        assert getattr(variant.config, name) == getattr(CONFIG, name)


@pytest.mark.parametrize("text", ["v:max-num-seqs=3", "v:--max-num-seqs=3", "v: max_num_seqs = 3 "])
def test_names_may_be_written_as_flags(text: str) -> None:
    assert parse_variant(text, CONFIG).config.max_num_seqs == 3


def test_the_queue_keeps_its_length_when_more_may_run() -> None:
    queued = CONFIG.max_in_flight - CONFIG.max_num_seqs
    config = parse_variant("wide:max_num_seqs=40", CONFIG).config
    assert config.max_in_flight == 40 + queued
    config = parse_variant("v:max_num_seqs=40,max_num_queued_reqs=2", CONFIG).config
    assert config.max_in_flight == 42


def test_the_pool_keeps_its_size_when_blocks_are_cut_otherwise() -> None:
    assert parse_variant("v:block_size=8", CONFIG).config.num_blocks == 8
    assert parse_variant("v:block_size=8,blocks=5", CONFIG).config.num_blocks == 5


def test_max_model_len_is_lowered_to_what_fits_the_pool() -> None:
    assert parse_variant("v:blocks=5", CONFIG).config.max_model_len == 20


@pytest.mark.parametrize(("word", "value"), [("on", True), ("False", False), ("0", False)])
def test_a_switch_takes_the_usual_words(word: str, value: bool) -> None:
    config = parse_variant(f"v:prefix_caching={word}", CONFIG).config
    assert config.enable_prefix_caching is value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_num_seqs=64", "write NAME:KEY=VALUE"),
        (":max_num_seqs=64", "write NAME:KEY=VALUE"),
        ("v:", "is not KEY=VALUE"),
        ("v:max_num_seqs", "'max_num_seqs' is not KEY=VALUE"),
        ("v:vocab_size=9", "'vocab_size' cannot be set; what can: max_num_seqs, "),
        ("v:max_num_seqs=0", "max_num_seqs: 0 is too small"),
        ("v:max_num_seqs=many", "'many' is not a whole number"),
        ("v:pipeline_depth=4", "pipeline_depth: 4 is too large (at most 3)"),
        ("v:block_size=12", "block_size: 12 is not a power of two"),
        ("v:policy=lifo", "'lifo' is no policy; there are fcfs, priority"),
        ("v:prefix_caching=maybe", "'maybe' is neither on nor off"),
        ("v:depth=1,pipeline-depth=2", "pipeline_depth is set twice"),
        ("v:blocks=1,block_size=1", "the KV pool holds one token"),
        ("v:block_size=128", "num_blocks is 0; it must be at least 1"),
        ("a name without end:depth=1", "a name has at most 16 characters"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(VariantError) as raised:
        parse_variant(text, CONFIG)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_one_setting_gives_a_variant_its_name() -> None:
    assert name_of_settings(["max_num_seqs=64"]) == "max_num_seqs=64"
    assert name_of_settings(["pipeline_depth=1"]) == "depth=1"
    assert name_of_settings(["max_num_batched_tokens=64"]) == "set"
    assert name_of_settings(["depth=1", "blocks=9"]) == "set"
    assert make_variant("set", ["depth=1", "blocks=9"], CONFIG).config.num_blocks == 9


def test_short_names_stand_for_settings() -> None:
    assert set(SHORT_NAMES.values()) <= set(SETTINGS)
