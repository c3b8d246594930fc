"""Rows of activations in 8 bits: whole steps of a scale that the row's largest magnitude sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenreel.kernels.cpu.compiler import compiled
from tokenreel.kernels.cpu.int8_rows import OFFSET, quantize_row, row_bytes, scale_place

Floats = NDArray[np.float32]
POISON = 77


@compiled
def quantize_all(source, depth, rows):
    for row in range(len(source)):
        quantize_row(source, row * source.shape[1], depth, rows, row)


def quantized(source: Floats) -> tuple[NDArray[np.int64], Floats]:
    """source [rows, depth], a multiple of 16 -> steps [rows, depth], sizes of a step [rows]."""
    depth = source.shape[1]
    rows = np.full(len(source) * row_bytes(depth), POISON, np.uint8)
    quantize_all(source, depth, rows)
    table = rows.reshape(len(source), -1)
    assert (table[:, depth : scale_place(depth)] == POISON).all()
    scales = table[:, scale_place(depth) :][:, :4].copy().view(np.float32)[:, 0]
    return table[:, :depth].astype(np.int64) - OFFSET, scales


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_rows=st.integers(1, 9),
    depth=st.integers(1, 20).map(lambda n: 16 * n),
    magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e4, 1e30]),
    seed=st.integers(0, 1000),
)
def test_steps_are_the_nearest(num_rows: int, depth: int, magnitude: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    source = generator.standard_normal((num_rows, depth)).astype(np.float32)
    source *= np.float32(magnitude)
    steps, scales = quantized(source)
    largest = np.abs(source).max(1)
    assert np.array_equal(scales, largest / np.float32(127))
    assert np.array_equal(np.abs(steps).max(1), np.full(num_rows, 127))
    lost = np.abs(steps * scales[:, None].astype(np.float64) - source)
    # A step is half missed at most; the sum with 128 is rounded to 2 ** -17.
    assert (lost <= scales[:, None] * (0.5 + 2.0**-15)).all()


def test_halves_go_to_the_even_step() -> None:
    source = np.zeros((1, 16), np.float32)
    source[0, :5] = [127, 0.5, 1.5, -0.5, -2.5]
    steps, scales = quantized(source)
    assert scales == [1]
    assert steps[0, :5].tolist() == [127, 0, 2, 0, -2]


def test_a_row_of_zeros_stays_zero() -> None:
    steps, scales = quantized(np.zeros((3, 32), np.float32))
    assert not steps.any()
    assert np.isfinite(scales).all()


def test_rows_below_what_a_float_can_divide_by_are_counted_in_small_steps() -> None:
    steps, scales = quantized(np.full((1, 16), 1e-37, np.float32))
    assert np.isfinite(scales).all()
    assert not steps.any()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 47])
def test_what_is_not_finite_shows_in_the_scale(bad: float, place: int) -> None:
    source = np.ones((3, 48), np.float32)
    source[1, place] = bad
    steps, scales = quantized(source)
    assert np.isfinite(scales).tolist() == [True, False, True]
    assert (steps[[0, 2]] == 127).all()
