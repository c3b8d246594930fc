"""Arrays that kernels read begin with a cache line, whatever their size; large ones cost what is
used of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from tokenreel.kernels.cpu.aligned import LINE, untouched, zeros

SMAPS = Path("/proc/self/smaps")


@pytest.mark.parametrize("shape", [1, 17, np.int64(17), (3, 5), (np.int32(2), 1 << 19)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
def test_an_array_of_zeros_begins_with_a_line(
    shape: int | tuple[int, ...], dtype: type[np.generic]
) -> None:
    arrays = [zeros(shape, dtype) for _ in range(3)]
    for array in arrays:
        assert array.ctypes.data % LINE == 0
        assert array.dtype == dtype and array.shape == np.zeros(shape).shape
        assert array.flags.c_contiguous and array.flags.writeable
        assert not array.any()
        array.fill(1)


def test_there_may_be_nothing_in_it() -> None:
    assert zeros(0, np.float32).shape == (0,)
    assert zeros((3, 0), np.float32).shape == (3, 0)
    assert untouched((3, 0), np.float32).shape == (3, 0)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_an_untouched_array_is_zero_and_can_be_written(dtype: type[np.generic]) -> None:
    array = untouched((3, np.int64(5), 7), dtype)
    assert array.ctypes.data % LINE == 0
    assert array.dtype == dtype and array.shape == (3, 5, 7) and array.flags.c_contiguous
    assert not array.any()
    array[2] = 1
    assert array.sum() == 5 * 7


@pytest.mark.skipif(not SMAPS.exists(), reason="only Linux tells what a mapping takes")
def test_an_untouched_array_takes_the_pages_that_were_written() -> None:
    array = untouched((64 << 20,), np.uint8)
    array[[0, 32 << 20]] = 1
    begin = f"{array.ctypes.data:x}-"
    mapping = SMAPS.read_text().partition(f"\n{begin}")[2]
    resident = re.search(r"^Rss: +(\d+) kB", mapping, re.MULTILINE)
    assert resident is not None and int(resident[1]) <= 1024, "not a huge page"
