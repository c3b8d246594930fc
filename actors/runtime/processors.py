"""What the system tells about its processors."""

import contextlib
from pathlib import Path


def siblings_of(number: int) -> set[int]:
    """The hyperthreads of a processor's core, itself among them."""
    path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    siblings = {number}
    # An emulated system may have no such file, or nothing in it.
    with contextlib.suppress(OSError, ValueError):
        for ends in path.read_text().split(","):
            first, _, last = ends.partition("-")
            siblings |= set(range(int(first), int(last or first) + 1))
    return siblings
