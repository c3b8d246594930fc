"""The KV cache: how many blocks fit the memory, and the tensors that hold them."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.worker.model_config import DecoderConfig
from tokenreel.messages.options import EngineOptions

MAX_DEFAULT_CPU_BYTES = 4 << 30
GIB = 1 << 30


@dataclass(frozen=True)
class KVCache:
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, [num_blocks, block_size, num_kv_heads, head_dim]."""

    @classmethod
    def allocate(
        cls,
        config: DecoderConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "KVCache":
        shape = (num_blocks, block_size, config.num_kv_heads, config.head_dim)
        return cls(
            [
                (_zeros(shape, dtype, device), _zeros(shape, dtype, device))
                for _ in range(config.num_layers)
            ]
        )


def bytes_per_block(config: DecoderConfig, block_size: int, dtype: torch.dtype) -> int:
    elements = config.num_layers * 2 * block_size * config.num_kv_heads * config.head_dim
    return elements * dtype.itemsize


def choose_num_blocks(
    options: EngineOptions,
    block_bytes: int,
    max_model_len: int,
    *,
    available_bytes: int,
    free_bytes: int,
) -> int:
    """How many blocks to have.

    `available_bytes` is what the device can spare; it counts unless the options name a number of
    blocks or bytes. Never more than `max_num_seqs` sequences of `max_model_len` tokens can fill,
    unless that number of blocks is asked for. Raises `StartError` if not even one block fits (the
    engine core lowers `max_model_len` to the pool, so that one is enough to start), or if the
    options ask for more than the `free_bytes` there are.
    """
    granted = options.kv_cache_memory_bytes
    num_blocks = options.num_gpu_blocks_override
    if num_blocks is not None and num_blocks < 1:
        raise StartError("--num-gpu-blocks-override should be at least 1")
    asked = granted if num_blocks is None else num_blocks * block_bytes
    if asked is not None and asked > free_bytes:
        raise StartError(
            f"the KV cache is to have {asked} bytes, but {free_bytes} bytes of memory are free; "
            "set a smaller --kv-cache-memory-bytes or --num-gpu-blocks-override"
        )
    if num_blocks is not None:
        return num_blocks
    budget = available_bytes if granted is None else granted
    fitting = budget // block_bytes
    if fitting < 1:
        source = "--kv-cache-memory-bytes" if granted is not None else "the memory left"
        raise StartError(
            f"the KV cache has no room: one block of {options.block_size} tokens takes "
            f"{block_bytes} bytes, and {source} is {max(budget, 0)}; free memory, or set "
            "--kv-cache-memory-bytes or a smaller --block-size"
        )
    blocks_per_sequence = -(-max_model_len // options.block_size)
    return int(min(fitting, options.max_num_seqs * blocks_per_sequence))


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken where the cache is to lie."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()


def available_host_bytes() -> int:
    """The default for a CPU: a quarter of the memory that is free, at most 4 GiB."""
    return min(free_host_bytes() // 4, MAX_DEFAULT_CPU_BYTES)


def available_device_bytes(
    device: torch.device, gpu_memory_utilization: float, peak_bytes: int
) -> int:
    """What is left of the share of the GPU that may be used. `peak_bytes` is the most that PyTorch
    held during the largest step; memory of other processes counts as used."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    elsewhere = total - free - torch.cuda.memory_reserved(device)
    return int(total * gpu_memory_utilization) - elsewhere - peak_bytes


def free_host_bytes() -> int:
    """Memory that this process may still take: the machine's, or its control group's if less."""
    return min(_free_machine_bytes(), *_free_cgroup_bytes())


def _free_machine_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_cgroup_bytes() -> list[int]:
    """Of the container, as cgroup version 2 or 1 shows it; at least one number."""
    pairs = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ]
    found = [1 << 62]
    for limit, usage in pairs:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
        except (OSError, ValueError):  # No such file, or "max".
            continue
    return found


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NumPy asks the system for zeroed pages, which cost nothing until they are used; torch.zeros
    # would write every one of them now.
    integers = np.int32 if dtype.itemsize == 4 else np.int16
    return torch.from_numpy(np.zeros(shape, integers)).view(dtype)
