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
    assert choose_dtype("float16", "bfloat16", CPU, LARGE) == torch.float16


def test_auto_is_the_checkpoints_own_on_a_gpu() -> None:
    assert choose_dtype("auto", "float16", CUDA, SMALL) == torch.float16


@pytest.mark.parametrize("is_native", [True, False])
def test_auto_on_a_cpu_is_bfloat16_only_where_it_is_native(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_computes_bfloat16", lambda: is_native)
    expected = torch.bfloat16 if is_native else torch.float32
    assert choose_dtype("auto", "bfloat16", CPU, LARGE) == expected
    assert choose_dtype("auto", "bfloat16", CPU, SMALL) == torch.float32
    assert choose_dtype("auto", "float16", CPU, LARGE) == torch.float32
    assert choose_dtype("auto", "float32", CPU, LARGE) == torch.float32


def test_unknown_or_absent_choices_hear_what_there_is() -> None:
    with pytest.raises(StartError, match="use auto, cpu or cuda"):
        choose_device("tpu")
    with pytest.raises(StartError, match="bfloat16"):
        choose_dtype("int8", "float32", CPU, LARGE)
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
