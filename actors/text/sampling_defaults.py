"""What a model's generation_config.json says about sampling, for requests that do not say."""

import math
from pathlib import Path
from typing import Any, Self

import msgspec

from tokenreel.actors.text.model_files import ModelFilesError, read_json


class SamplingDefaults(msgspec.Struct, frozen=True):
    """Where the file says nothing: plain sampling from the model's distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Raises `ModelFilesError`. As in vLLM, `do_sample` is not looked at."""
        path = model_dir / "generation_config.json"
        config = read_json(path)
        values = {
            name: _checked(path, name, config[name])
            for name in cls.__struct_fields__
            if config.get(name) is not None
        }
        if "top_k" in values:
            values["top_k"] = max(0, int(values["top_k"]))
        return cls(**values)


_RANGES = {
    "temperature": (0.0, math.inf),
    "top_k": (-1.0, float(1 << 32)),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}


def _checked(path: Path, name: str, value: Any) -> Any:
    low, high = _RANGES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise ModelFilesError(f"{path}: {name} is {value!r}, which is no value for it")
    return value
