"""Which architectures there are: the names that a config.json may give, and who reads it."""

from collections.abc import Callable

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.model_config import ConfigFile, DecoderConfig
from tokenreel.actors.worker.models import llama, mistral, qwen2, qwen3

FAMILIES: dict[str, Callable[[ConfigFile], DecoderConfig]] = {
    "LlamaForCausalLM": llama.read_config,
    "MistralForCausalLM": mistral.read_config,
    "Qwen2ForCausalLM": qwen2.read_config,
    "Qwen3ForCausalLM": qwen3.read_config,
}


def read_decoder_config(config: ConfigFile) -> DecoderConfig:
    read_config = FAMILIES.get(config.architecture)
    if read_config is None:
        raise StartError(
            f"{config.path}: architecture {config.architecture} is not supported; these are: "
            + ", ".join(FAMILIES)
        )
    return read_config(config)
