"""MistralForCausalLM: Llama's layers, of which each may attend to a sliding window."""

from tokenreel.actors.worker.model_config import ConfigFile, DecoderConfig, decoder_config

DEFAULT_SLIDING_WINDOW = 4096


def read_config(config: ConfigFile) -> DecoderConfig:
    window = None
    # A file that says null means no window; one that says nothing means the first Mistral's.
    if config.values.get("sliding_window", DEFAULT_SLIDING_WINDOW) is not None:
        window = config.integer("sliding_window", DEFAULT_SLIDING_WINDOW)
    num_layers = config.integer("num_hidden_layers")
    return decoder_config(config, sliding_windows=(window,) * num_layers)
