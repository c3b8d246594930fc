"""Qwen2ForCausalLM (Qwen2, Qwen2.5): Llama's layers with biases on query, key and value."""

from tokenreel.actors.worker.model_config import (
    ConfigFile,
    DecoderConfig,
    decoder_config,
    sliding_window_by_layer,
)


def read_config(config: ConfigFile) -> DecoderConfig:
    return decoder_config(config, qkv_bias=True, sliding_windows=sliding_window_by_layer(config))
