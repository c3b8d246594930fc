"""What a config.json may say, and what is said about one that cannot be served."""

import json
from pathlib import Path
from typing import Any

import pytest

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.model_config import ConfigFile, DecoderConfig
from tokenreel.actors.worker.models.registry import FAMILIES, read_decoder_config

MINIMAL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def read(architecture: str = "LlamaForCausalLM", **changes: Any) -> DecoderConfig:
    values = MINIMAL | {"architectures": [architecture]} | changes
    return read_decoder_config(ConfigFile(values, Path("config.json")))


def test_missing_values_are_those_of_transformers() -> None:
    config = read()
    assert config.num_kv_heads == 4
    assert config.head_dim == 16
    assert config.rms_norm_eps == 1e-6
    assert config.rope.theta == 10000.0
    assert config.dtype == "float32"
    assert not config.tie_word_embeddings
    assert config.sliding_windows == (None,) * 4
    assert read("Qwen3ForCausalLM").head_dim == 128
    assert read("MistralForCausalLM").sliding_windows == (4096,) * 4


def test_both_generations_of_the_file_say_the_same() -> None:
    scaling = {"factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 2.0}
    old = read(rope_theta=5e5, rope_scaling=scaling | {"type": "llama3"}, torch_dtype="bfloat16")
    table = scaling | {"rope_type": "llama3", "rope_theta": 5e5}
    assert old == read(rope_parameters=table, dtype="bfloat16")
    assert old.rope.rope_type == "llama3"
    assert old.rope.theta == 5e5
    assert old.dtype == "bfloat16"


def test_yarn_extends_what_the_model_can_tell_apart() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read("Qwen2ForCausalLM", rope_scaling=scaling).max_position == 2048


def test_windows_of_qwen_need_their_switch() -> None:
    window = {"sliding_window": 32, "max_window_layers": 3}
    assert read("Qwen2ForCausalLM", **window).sliding_windows == (None,) * 4
    used = read("Qwen2ForCausalLM", use_sliding_window=True, **window)
    assert used.sliding_windows == (None, None, None, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is not supported"),
        ({"architectures": None}, "architectures should be a list"),
        ({"hidden_size": "64"}, "hidden_size should be a positive integer, but there is '64'"),
        ({"vocab_size": 0}, "vocab_size should be a positive integer"),
        ({"num_key_value_heads": 3}, "num_key_value_heads should divide 4"),
        ({"head_dim": 7}, "head_dim should be even"),
        ({"hidden_act": "gelu"}, "hidden_act should be silu"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized (awq)"),
        ({"rope_scaling": {"type": "longrope"}}, "rope type 'longrope' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "factor should be a positive number"),
        ({"rope_parameters": {"full_attention": {}}}, "differ by layer"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor should be 1"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn' is not supported"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings should be true or false"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StartError) as error:
        read(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unsupported_architecture_hears_the_supported_ones() -> None:
    with pytest.raises(StartError) as error:
        read("MambaForCausalLM")
    assert all(name in str(error.value) for name in FAMILIES)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no config.json"), ("{", "cannot read"), ("[]", "does not hold a JSON object")],
)
def test_a_broken_file_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(StartError, match=message):
        ConfigFile.read(tmp_path)
    with pytest.raises(StartError, match="is no directory"):
        ConfigFile.read(tmp_path / "missing")


def test_the_file_is_read(tmp_path: Path) -> None:
    values = MINIMAL | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_decoder_config(ConfigFile.read(tmp_path)).num_layers == 4
