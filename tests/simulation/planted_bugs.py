"""Copies of the core with one mistake in each, for the tools to find; the tutorial shows them."""

import shutil
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class PlantedBug(NamedTuple):
    """In `file` of the core, the lines `right` stand as `wrong`."""

    file: str
    right: str
    wrong: str


STALL = PlantedBug(
    "scheduler.py",
    "        while not rows or needed + len(running) - len(victims) > free:\n",
    "        while not rows or needed + len(running) - len(victims) >= free:\n",
)
"""Who needs every block of the pool never starts, and nobody behind it."""
LEAK = PlantedBug(
    "engine.py",
    "        self.kv.pool.lift_fence(event.step_id)\n"
    "        return effects if emitted else effects[1:]\n",
    "        if not emitted:\n"
    "            return effects[1:]\n"
    "        self.kv.pool.lift_fence(event.step_id)\n"
    "        return effects\n",
)
"""Blocks stay fenced if nobody whom their step computed is left when it completes."""
STARVATION = PlantedBug(
    "engine.py",
    "        level = self._policy.level(event.priority)\n",
    "        level = self._policy.level(event.priority) + len(event.prompt_token_ids)\n",
)
"""The shorter the prompt the more urgent, whenever it came."""


def plant(directory: Path, *bugs: PlantedBug) -> Path:
    """A copy of the core, and of the messages that it speaks, with `bugs` in it."""
    for package in ("messages", "actors/core"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, directory / package, ignore=ignore)
    for bug in bugs:
        file = directory / "actors" / "core" / bug.file
        source = file.read_text()
        assert source.count(bug.right) == 1, f"{bug.file} has changed: plant the bug elsewhere"
        file.write_text(source.replace(bug.right, bug.wrong))
    return directory
