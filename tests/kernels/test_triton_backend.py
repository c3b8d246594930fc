"""The Triton backend serves steps that mix prefills and decodes."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from tokenreel.kernels.triton_backend import TritonBackend

pytestmark = pytest.mark.triton

MIXED = [(1, 40), (20, 20), (1, 1), (7, 90), (0, 3), (1, 140)]


@pytest.mark.parametrize("sliding_window", [None, 11])
@pytest.mark.parametrize(
    "lengths", [MIXED, [(1, 200), (1, 3)], [(30, 30)]], ids=["mixed", "decode", "prefill"]
)
def test_attention_agrees_with_dense_attention(
    make_step: Any,
    triton_device: torch.device,
    triton_dtype: torch.dtype,
    lengths: list[tuple[int, int]],
    sliding_window: int | None,
) -> None:
    step = make_step(
        lengths, sliding_window=sliding_window, device=triton_device, dtype=triton_dtype
    )
    backend = TritonBackend(num_multiprocessors=2)
    output = backend.attention(
        step.query, step.key_cache, step.value_cache, step.metadata, step.scale, sliding_window
    )
    step.assert_close(output)


def test_stored_tokens_are_attended_to(make_step: Any, triton_device: torch.device) -> None:
    step = make_step([(1, 17)], block_size=4, device=triton_device)
    slot = step.metadata.block_tables[0, 4:5].long() * 4
    key, value = (cache.flatten(0, 1)[slot].clone() for cache in (step.key_cache, step.value_cache))
    step.key_cache.flatten(0, 1)[slot] = float("nan")
    step.value_cache.flatten(0, 1)[slot] = float("nan")
    backend = TritonBackend(num_multiprocessors=2)
    backend.store_kv(key, value, step.key_cache, step.value_cache, slot)
    step.assert_close(
        backend.attention(step.query, step.key_cache, step.value_cache, step.metadata, step.scale)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_step_of_decodes_replays_from_a_cuda_graph(make_step: Any) -> None:
    step = make_step([(1, 40), (1, 0), (1, 300)], device=torch.device("cuda"))
    backend = TritonBackend(num_multiprocessors=132)
    arguments = (step.query, step.key_cache, step.value_cache, step.metadata, step.scale)
    backend.attention(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = backend.attention(*arguments)
    output.fill_(float("nan"))
    graph.replay()
    step.assert_close(output)
