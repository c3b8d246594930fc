"""Arrays that begin with a cache line; NumPy's begin anywhere. A vector or a row of a tile that
crosses two lines is read as two: up to a tenth of a product's time."""

import math
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
