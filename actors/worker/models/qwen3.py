"""Qwen3ForCausalLM, the dense Qwen3: Llama's layers with normalized queries and keys."""

from tokenreel.actors.worker.model_config import (
    ConfigFile,
    DecoderConfig,
    decoder_config,
    sliding_window_by_layer,
)


def read_config(config: ConfigFile) -> DecoderConfig:
    attention_bias = config.flag("attention_bias", False)
    return decoder_config(
        config,
        default_head_dim=128,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        qk_norm=True,
        sliding_windows=sliding_window_by_layer(config),
    )
