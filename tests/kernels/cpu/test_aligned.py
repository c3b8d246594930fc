"""Arrays that kernels read begin with a cache line, whatever their size; large ones cost what is
used of them."""

import errno
import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from tokenreel.kernels.cpu import aligned
from tokenreel.kernels.cpu.aligned import LINE, untouched, zeros

SMAPS = Path("/proc/self/smaps")
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


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


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="this system has no large pages")
def test_an_untouched_array_has_small_pages() -> None:
    """Or the first element that is written would have 2 MiB of zeros written."""
    array = untouched((64 << 20,), np.uint8)
    address, is_its = array.ctypes.data, False
    for line in SMAPS.read_text().splitlines():
        if (bounds := re.match("([0-9a-f]+)-([0-9a-f]+) ", line)) is not None:
            is_its = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif line.startswith("VmFlags:") and is_its:
            assert "nh" in line.split(), "advised against large pages"
            return
    pytest.fail("the array is not mapped")


def test_a_system_without_large_pages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mapping(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(aligned.mmap, "mmap", Mapping)
    assert not untouched((3, 5), np.float32).any()
