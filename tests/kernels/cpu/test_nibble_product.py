"""Weights of 4 bits: what they lose, and the room that they take."""

import torch
from short_product import random

from tokenreel.kernels.cpu.nibble_product import pack_steps, quantize
from tokenreel.kernels.cpu.row_blocks import PANEL


def test_weights_lose_half_a_step_at_most() -> None:
    weight = torch.from_numpy(random(11, 50, 70))
    weight[7] = 0
    steps, scales = quantize(weight)
    assert (steps % 16 == 0).all()
    assert not steps[7].any()
    lost = (steps * scales.unsqueeze(1) - weight).abs()
    assert (lost <= 16 * scales.unsqueeze(1) * 0.5001).all()


def test_it_takes_half_the_room_of_eight_bits() -> None:
    packed = pack_steps(*quantize(torch.from_numpy(random(12, 64, 128))))
    scales_and_corrections = 8 * PANEL
    assert packed.shape == (2, 128 * PANEL // 2 + scales_and_corrections)


def test_a_weight_without_columns_has_no_panels() -> None:
    assert len(pack_steps(*quantize(torch.empty(0, 576)))) == 0
