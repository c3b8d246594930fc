"""Whether the system lets a process use AMX's tile registers, which Linux gives on request only."""

import ctypes
import functools
import platform

_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_TILE_DATA = 158, 0x1023, 18


@functools.cache
def may_use_tiles() -> bool:
    """Asks for them, for this process and its threads to come."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_TILE_DATA) == 0)
