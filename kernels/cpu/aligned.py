"""Arrays that begin with a cache line; NumPy's begin anywhere. A vector or a row of a tile that
crosses two lines is read as two: up to a tenth of a product's time. And arrays that cost what is
used of them."""

import contextlib
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64
"""Bytes, of x86 and most others."""


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Pages that the system gives are zero, and cost nothing until they are used."""
    sizes = shape if isinstance(shape, tuple) else (shape,)
    num_bytes = math.prod(map(int, sizes)) * np.dtype(dtype).itemsize
    memory = np.zeros(num_bytes + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + num_bytes].view(dtype).reshape(sizes)


def untouched(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros of which little is used at first, in small pages: NumPy asks for large ones, and of
    those the system clears all when one element is written. Steps are as fast, at contexts of
    4,000 tokens too."""
    num_bytes = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(1, num_bytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # It fails where the system has no large pages at all.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8, num_bytes).view(dtype).reshape(shape)
