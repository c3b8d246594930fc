"""What the system tells about its processors."""

from pathlib import Path


def siblings_of(number: int) -> set[int]:
    """The hyperthreads of a processor's core, itself among them."""
    path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    try:
        ranges = path.read_text().split(",")
    except OSError:
        return {number}
    siblings = {number}
    for ends in ranges:
        first, _, last = ends.partition("-")
        siblings |= set(range(int(first), int(last or first) + 1))
    return siblings
