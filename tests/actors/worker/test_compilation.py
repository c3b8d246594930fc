"""Whatever a request may ask for, it never waits for the compiler."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from numba import config, typeof

from tokenreel.actors.worker.loading import load
from tokenreel.actors.worker.models import compiled_decoder
from tokenreel.actors.worker.models.compiled_cache import element_type
from tokenreel.actors.worker.models.decoder import tensor_shapes
from tokenreel.actors.worker.weights import DummyWeights
from tokenreel.kernels.cpu.compiler import compilation_told, compiled
from tokenreel.kernels.cpu.forward_arguments import forward_arguments
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


FORMATS = pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        ("float32", None),
        ("bfloat16", None),
        ("float16", None),
        ("bfloat16", "int8"),
        ("bfloat16", "int8-weight-only"),
    ],
)


@FORMATS
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


@FORMATS
@pytest.mark.parametrize("windows", [(None, None), (8, None)])
def test_a_forward_step_is_what_was_compiled_apart(
    dtype: str,
    quantization: str | None,
    windows: tuple[int | None, ...],
    small_model: Callable[[str], Any],
    new_driver: Callable[..., Any],
) -> None:
    """Its arguments' types are all that its compilation depends on."""
    model = small_model("qwen3")
    shape = replace(model.decoder.config, num_layers=len(windows), sliding_windows=windows)
    weights = DummyWeights(tensor_shapes(shape), getattr(torch, dtype), torch.device("cpu"), 0)
    decoder = compiled_decoder.CompiledDecoder(shape, weights, 96, 2, quantization)
    called: list[Any] = []
    decoder._forward = lambda *arguments: called.append(arguments)  # type: ignore[assignment]
    new_driver(decoder).generate([1, 2, 3], 1)
    decoder.team.close()
    weights_type = element_type(decoder.dtype)
    expected = forward_arguments(weights_type, quantization, len(set(windows)))
    assert list(map(typeof, called[0])) == list(map(typeof, expected))


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
