"""Whatever a request may ask for, it never waits for the compiler."""

from collections.abc import Callable
from typing import Any

import pytest
from numba import config

from tokenreel.actors.worker.loading import load
from tokenreel.actors.worker.models import compiled_decoder
from tokenreel.kernels.cpu.compiler import compilation_told, compiled
from tokenreel.messages.options import EngineOptions
from tokenreel.messages.sampling import SamplingParams

REQUESTS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, num_logprobs=5),
    SamplingParams(),
    SamplingParams(top_k=3, seed=1),
    SamplingParams(top_p=0.5, min_p=0.1, num_logprobs=0),
    SamplingParams(presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
    SamplingParams(logit_bias=((3, 2.0),), num_logprobs=2),
]


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        ("float32", None),
        ("bfloat16", None),
        ("float16", None),
        ("bfloat16", "int8"),
        ("bfloat16", "int8-weight-only"),
    ],
)
def test_nothing_is_compiled_after_start_up(
    dtype: str,
    quantization: str | None,
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
    random_tokens: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As for any vocabulary that is worth it.
    monkeypatch.setattr(compiled_decoder, "MIN_SCREENED", 0)
    directory = str(small_model("qwen3").directory)
    options = EngineOptions(
        model=directory,
        served_model_name="m",
        device="cpu",
        dtype=dtype,
        quantization=quantization,
    )
    model = load(options).runner._model
    told: list[str] = []
    with compilation_told(lambda: told.append("compiled")):
        driver = new_driver(model)
        for sampling in REQUESTS:
            alone = driver.add(random_tokens(9), sampling)
            driver.step({alone.seq_id: 4})
            driver.step({alone.seq_id: 5})
            driver.decode([alone], 2)
            driver.remove(alone)
        together = [driver.add(random_tokens(9), sampling) for sampling in REQUESTS]
        driver.step({sequence.seq_id: 9 for sequence in together})
        driver.decode(together, 2)
    assert not driver.failures
    assert not told


def test_compilation_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # A function that is kept would be compiled in the first of many runs only.
    monkeypatch.setattr(config, "CACHE_DIR", "")

    @compiled
    def following(number):  # type: ignore[no-untyped-def]
        return number + 1

    told: list[str] = []
    with compilation_told(lambda: told.append("compiled")):
        following(1)
        following(1.5)
    assert told == ["compiled"]
