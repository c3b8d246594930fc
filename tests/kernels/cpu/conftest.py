"""What holds for all tests of compiled kernels."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random inputs are the same in every run."""
    torch.manual_seed(0)
