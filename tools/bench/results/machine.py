"""Where it was measured: what makes figures differ from one machine to the next."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PACKAGES = ("torch", "numpy", "numba", "msgspec", "uvloop", "pyzmq", "tokenizers", "starlette")
"""Whose versions matter; they are asked of the package index's records, not imported."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    processor: str
    num_cores: int
    """That this process may use."""
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    load_average: float
    """Over the last minute, before the measurement: on an idle machine near 0."""


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        num_cores=num_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=sys.version.split()[0],
        packages={name: found for name in PACKAGES if (found := _version(name))},
        load_average=round(os.getloadavg()[0], 2),
    )


def num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Its name; where a virtual machine hides it, family and model as well."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts and "model" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
