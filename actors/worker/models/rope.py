"""Rotary position embeddings: the frequencies of every supported kind, and the table of rotations.

Sources: RoFormer (Su et al. 2021); linear scaling (kaiokendev 2023); Llama 3.1's frequency bands
(Meta 2024); YaRN (Peng et al. 2023). Values agree with transformers' to the last float32 digit.
"""

import math

import torch
from torch import Tensor

from tokenreel.actors.worker.model_config import RopeConfig


def rotation_table(rope: RopeConfig, head_dim: int, num_positions: int) -> Tensor:
    """What position p multiplies each pair of a head's elements with, as complex numbers.

    Returns [num_positions, head_dim // 2] complex64.
    """
    frequencies, scale = inverse_frequencies(rope, head_dim)
    positions = torch.arange(num_positions, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    return torch.complex(angles.cos().mul_(scale), angles.sin().mul_(scale))


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Radians per position, [head_dim // 2] float32, and what cosines and sines are scaled by."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    wavelengths = rope.theta**exponents
    match rope.rope_type:
        case "linear":
            return 1.0 / wavelengths / rope.factor, 1.0
        case "llama3":
            return _llama3(rope, 1.0 / wavelengths), 1.0
        case "yarn":
            return _yarn(rope, wavelengths, head_dim), _yarn_scale(rope)
        case _:
            # "dynamic" only departs from the default beyond max_position_embeddings, which is
            # where sequences end: cached keys could not follow a base that changes.
            return 1.0 / wavelengths, 1.0


def _llama3(rope: RopeConfig, frequencies: Tensor) -> Tensor:
    """Low frequencies are divided by the factor, high ones kept, those between blended."""
    wavelengths = 2 * math.pi / frequencies
    low_wavelength = rope.original_max_position / rope.low_freq_factor
    high_wavelength = rope.original_max_position / rope.high_freq_factor
    share = rope.original_max_position / wavelengths - rope.low_freq_factor
    share = share / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - share) * frequencies / rope.factor + share * frequencies
    scaled = torch.where(wavelengths > low_wavelength, frequencies / rope.factor, blended)
    return torch.where(wavelengths < high_wavelength, frequencies, scaled)


def _yarn(rope: RopeConfig, wavelengths: Tensor, head_dim: int) -> Tensor:
    """Blends kept (fast) and divided (slow) frequencies along a ramp over the dimensions."""

    def dimension_of(num_rotations: float) -> float:
        per_rotation = rope.original_max_position / (num_rotations * 2 * math.pi)
        return head_dim * math.log(per_rotation) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    return 1.0 / (rope.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _yarn_scale(rope: RopeConfig) -> float:
    def magnitude(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)
