"""Reads a model directory's config.json into what the worker must know. It may not import torch.

Both generations of the file are understood: transformers 4 (`rope_theta` and `rope_scaling` at the
top, `torch_dtype`) and transformers 5 (one `rope_parameters` table, `dtype`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenreel.actors.runtime.actor import StartError

CONFIG_FILE = "config.json"
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: `rope_type` is one of ROPE_TYPES."""

    rope_type: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama kind; a family is what it sets here (`models/<family>.py`)."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position: int
    """How many positions the model can tell apart: its own limit on a sequence's length."""
    rope: RopeConfig
    tie_word_embeddings: bool
    dtype: str
    """What the checkpoint says it was trained in, one of DTYPES."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of query and key, before the rotation."""
    sliding_windows: tuple[int | None, ...] = field(default=())
    """One per layer; None attends to everything."""


class ConfigFile:
    """config.json with typed access; a wrong value is a `StartError` that names the key."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    @classmethod
    def read(cls, directory: Path) -> "ConfigFile":
        path = directory / CONFIG_FILE
        if not directory.is_dir():
            raise StartError(f"{directory} is no directory; give a Hugging Face model directory")
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise StartError(
                f"{directory} has no {CONFIG_FILE}; is it a model directory?"
            ) from None
        except (OSError, ValueError) as error:
            raise StartError(f"cannot read {path}: {error}") from error
        if not isinstance(values, dict):
            raise StartError(f"{path} does not hold a JSON object")
        return cls(values, path)

    @property
    def architecture(self) -> str:
        names = self.values.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise self.error("architectures", "should be a list with the model's class name")
        return names[0]

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, "should be a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self.error(key, "should be a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "should be true or false")
        return value

    def table(self, key: str) -> "ConfigFile":
        """A nested object; empty if it is missing or null."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "should be an object")
        return ConfigFile(value, self.path)

    def error(self, key: str, expectation: str) -> StartError:
        found = repr(self.values[key])[:80] if key in self.values else "nothing"
        return StartError(f"{self.path}: {key} {expectation}, but there is {found}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value


def decoder_config(
    config: ConfigFile,
    *,
    default_head_dim: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    sliding_windows: tuple[int | None, ...] | None = None,
) -> DecoderConfig:
    """What all families read alike; the arguments are what they differ in."""
    _refuse_what_is_not_computed(config)
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", num_heads)
    num_layers = config.integer("num_hidden_layers")
    head_dim = config.integer("head_dim", default_head_dim or hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise config.error("num_key_value_heads", f"should divide {num_heads} attention heads")
    if head_dim % 2:
        raise config.error("head_dim", "should be even")
    rope = _rope_config(config)
    return DecoderConfig(
        architecture=config.architecture,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        max_position=_max_position(config, rope),
        rope=rope,
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        dtype=_checkpoint_dtype(config),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        sliding_windows=sliding_windows or (None,) * num_layers,
    )


def sliding_window_by_layer(config: ConfigFile) -> tuple[int | None, ...]:
    """Qwen's way to say which layers have a window: `use_sliding_window`, then `layer_types` or,
    in older files, every layer from `max_window_layers` on."""
    num_layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window", False):
        return (None,) * num_layers
    window = config.integer("sliding_window", 4096)
    layer_types = config.values.get("layer_types")
    if layer_types is None:
        # 0 is a valid value here, unlike for every other count.
        first = config.values.get("max_window_layers", 28)
        if not isinstance(first, int) or first < 0:
            raise config.error("max_window_layers", "should be an integer, 0 or more")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if (
        not isinstance(layer_types, list)
        or len(layer_types) != num_layers
        or any(name not in known for name in layer_types)
    ):
        raise config.error("layer_types", f"should name one of {sorted(known)} for each layer")
    return tuple(known[name] for name in layer_types)


def _refuse_what_is_not_computed(config: ConfigFile) -> None:
    quantization = config.table("quantization_config").values
    if quantization:
        method = quantization.get("quant_method", "an unnamed method")
        raise StartError(
            f"{config.path}: the weights are quantized ({method}), which is not supported; "
            "use the float16, bfloat16 or float32 model"
        )
    activation = config.values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise config.error("hidden_act", "should be silu, the only supported activation")


def _rope_config(config: ConfigFile) -> RopeConfig:
    table = config.table("rope_parameters")
    if not table.values:
        table = config.table("rope_scaling")
    rope_type = table.values.get("rope_type", table.values.get("type", "default"))
    if any(isinstance(value, dict) for value in table.values.values()):
        raise StartError(f"{config.path}: rotary embeddings that differ by layer are not supported")
    if rope_type not in ROPE_TYPES:
        raise StartError(
            f"{config.path}: rope type {rope_type!r} is not supported; these are: "
            + ", ".join(ROPE_TYPES)
        )
    rotated_share = table.number("partial_rotary_factor", config.number("partial_rotary_factor", 1))
    if rotated_share != 1:
        raise config.error("partial_rotary_factor", "should be 1, the only supported value")
    theta = table.number("rope_theta", config.number("rope_theta", 10000.0))
    if rope_type == "default":
        return RopeConfig(theta=theta)
    optional = {
        key: table.number(key)
        for key in ("attention_factor", "mscale", "mscale_all_dim")
        if table.values.get(key)
    }
    return RopeConfig(
        rope_type=rope_type,
        theta=theta,
        factor=table.number("factor"),
        original_max_position=config.integer(
            "original_max_position_embeddings",
            table.integer(
                "original_max_position_embeddings", config.integer("max_position_embeddings")
            ),
        ),
        low_freq_factor=table.number("low_freq_factor", 1.0),
        high_freq_factor=table.number("high_freq_factor", 4.0),
        beta_fast=table.number("beta_fast", 32.0),
        beta_slow=table.number("beta_slow", 1.0),
        truncate=table.flag("truncate", True),
        **optional,
    )


def _max_position(config: ConfigFile, rope: RopeConfig) -> int:
    limit = config.integer("max_position_embeddings")
    if rope.rope_type == "yarn":
        # Many files add YaRN to a model and leave the limit that it had without.
        return max(limit, int(rope.original_max_position * rope.factor))
    return limit


def _checkpoint_dtype(config: ConfigFile) -> str:
    name = config.values.get("dtype") or config.values.get("torch_dtype") or "float32"
    name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise StartError(f"{config.path}: dtype {name!r} is not supported; these are: {DTYPES}")
    return name
