"""One backend is chosen by the device, and a CPU never loads triton."""

import subprocess
import sys

import pytest
import torch

from tokenreel.kernels.backend import choose_backend

DECODE_ON_CPU = """
import sys
import torch
from tokenreel.kernels.backend import AttentionMetadata, choose_backend
one = torch.ones(1, dtype=torch.int32)
metadata = AttentionMetadata(
    query_start_loc=torch.tensor([0, 1], dtype=torch.int32),
    context_lens=one,
    block_tables=torch.zeros(1, 1, dtype=torch.int32),
    slot_mapping=torch.zeros(1, dtype=torch.int64),
    max_query_len=1,
    max_context_len=1,
    all_decode=True,
)
row, cache = torch.ones(1, 1, 8), torch.zeros(1, 4, 1, 8)
backend = choose_backend(torch.device("cpu"))
backend.store_kv(row, row, cache, cache, metadata.slot_mapping)
assert backend.attention(row, cache, cache, metadata, 1.0).sum() == 8
assert "triton" not in sys.modules
"""


def test_a_cpu_gets_pytorch() -> None:
    assert choose_backend(torch.device("cpu")).name == "torch"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_triton() -> None:
    assert choose_backend(torch.device("cuda")).name == "triton"


def test_another_device_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mps; use cpu or cuda"):
        choose_backend(torch.device("mps"))


def test_attention_on_a_cpu_does_not_import_triton() -> None:
    subprocess.run([sys.executable, "-P", "-c", DECODE_ON_CPU], check=True, timeout=120)
