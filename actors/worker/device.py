"""Where and how a model is computed: device, number format, number of threads."""

import os
from pathlib import Path

import torch

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.runtime.processors import siblings_of
from tokenreel.actors.worker.model_config import DTYPES

DTYPE_OF_NAME: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
QUANTIZATIONS = ("int8", "int8-weight-only")
SMALL_MODEL_PARAMETERS = 16_000_000
"""Under so many, a step of few tokens is over in about a millisecond."""


def choose_device(option: str) -> torch.device:
    """`--device`: auto takes a CUDA GPU if there is one."""
    if option not in ("auto", "cpu", "cuda"):
        raise StartError(f"--device {option} is unknown; use auto, cpu or cuda")
    has_cuda = option != "cpu" and torch.cuda.is_available()
    if option == "cuda" and not has_cuda:
        raise StartError("--device cuda, but PyTorch finds no CUDA GPU; use --device cpu")
    return torch.device("cuda", 0) if has_cuda else torch.device("cpu")


def choose_dtype(option: str, checkpoint_dtype: str) -> torch.dtype:
    """`--dtype`: auto is the checkpoint's own.

    On a CPU 16 bits are how weights and KV lie in memory, which is what a step waits for. They are
    multiplied as float32, and bfloat16 by AMX where there is one.
    """
    if option == "auto":
        return DTYPE_OF_NAME[checkpoint_dtype]
    if option not in DTYPE_OF_NAME:
        raise StartError(f"--dtype {option} is unknown; use auto, {', '.join(DTYPES)}")
    return DTYPE_OF_NAME[option]


def choose_quantization(option: str | None, device: torch.device) -> str | None:
    """`--quantization`: what is done to the weights when they are loaded."""
    if option is None:
        return None
    if option not in QUANTIZATIONS:
        raise StartError(f"--quantization {option} is unknown; use {' or '.join(QUANTIZATIONS)}")
    if device.type != "cpu":
        raise StartError(
            f"--quantization {option} is for CPUs, and the model would run on {device.type}; leave "
            "it out, or add --device cpu"
        )
    return option


def check_batch_invariance(is_asked: bool, device: torch.device) -> bool:
    """`--batch-invariant`: whether logits depend on nothing but their sequence. It cannot be turned
    off: the CPU's kernels have one order for every sum, and no other to choose from."""
    is_given = device.type == "cpu"
    if is_asked and not is_given:
        raise StartError(
            f"--batch-invariant is for CPUs, and the model would run on {device.type}, where sums "
            "are ordered by the batch; leave it out, or add --device cpu"
        )
    return is_given


def set_num_threads(num_parameters: int) -> int:
    """One thread per physical core that this process may use, but a single one for a small model:
    most of its operations are over before a second thread has woken up, and the other actors can
    use the core. OMP_NUM_THREADS overrides."""
    if "OMP_NUM_THREADS" not in os.environ:
        is_small = num_parameters < SMALL_MODEL_PARAMETERS
        torch.set_num_threads(1 if is_small else num_physical_cores())
    return torch.get_num_threads()


def num_physical_cores() -> int:
    """Cores of the affinity mask, hyperthreads counted once, within the control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = {frozenset(siblings_of(number)) for number in allowed}
    return max(1, min(len(cores), int(_cpu_quota())))


def _cpu_quota() -> float:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # No such file, or "max".
        return 1 << 20
