"""LlamaForCausalLM: Llama 2 and 3, SmolLM, and the many models that share their shape."""

from tokenreel.actors.worker.model_config import ConfigFile, DecoderConfig, decoder_config


def read_config(config: ConfigFile) -> DecoderConfig:
    attention_bias = config.flag("attention_bias", False)
    return decoder_config(
        config,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
    )
