"""Arrays that kernels read begin with a cache line, whatever their size."""

import numpy as np
import pytest

from tokenreel.kernels.cpu.aligned import LINE, zeros


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
