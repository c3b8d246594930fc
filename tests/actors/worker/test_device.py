"""Device and number format: what the options say, and what auto means."""

import pytest
import torch

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker import device
from tokenreel.actors.worker.device import (
    check_batch_invariance,
    choose_device,
    choose_dtype,
    num_physical_cores,
    set_num_threads,
)

SMALL, LARGE = 3_000_000, 10**9
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_an_explicit_choice_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert choose_dtype("float16", "bfloat16") == torch.float16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_auto_is_the_checkpoints_own(dtype: str) -> None:
    assert choose_dtype("auto", dtype) == getattr(torch, dtype)


def test_unknown_or_absent_choices_hear_what_there_is() -> None:
    with pytest.raises(StartError, match="use auto, cpu or cuda"):
        choose_device("tpu")
    with pytest.raises(StartError, match="bfloat16"):
        choose_dtype("int8", "float32")
    if not torch.cuda.is_available():
        with pytest.raises(StartError, match="finds no CUDA GPU"):
            choose_device("cuda")


def test_batch_invariance_is_how_a_cpu_computes_and_refused_elsewhere() -> None:
    assert check_batch_invariance(True, CPU)
    assert check_batch_invariance(False, CPU)
    assert not check_batch_invariance(False, CUDA)
    with pytest.raises(StartError, match="--batch-invariant .* add --device cpu"):
        check_batch_invariance(True, CUDA)


@pytest.mark.parametrize(("num_parameters", "num_threads"), [(SMALL, 1), (LARGE, 6)])
def test_a_small_model_leaves_the_other_cores_to_the_other_actors(
    num_parameters: int, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "num_physical_cores", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    set_num_threads(num_parameters)
    assert chosen == [num_threads]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    set_num_threads(num_parameters)
    assert chosen == [num_threads]


def test_there_is_a_core() -> None:
    assert num_physical_cores() >= 1
