"""A second core in this process, beside the one that is under test, to compare decisions with."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tokenreel.actors.core.config import CoreConfig
from tokenreel.tools.replay.core_code import Core
from tokenreel.tools.replay.under_test import package_in

PACKAGE = "tokenreel.actors.core"


class OtherCore:
    """The core of a checkout or copy of the package. It speaks with the messages of this tool."""

    def __init__(self, directory: Path) -> None:
        """Raises NoPackage, or whatever importing that code raises."""
        root = package_in(directory) / "actors" / "core"
        with _put_aside():
            package = _load(root)
            self._engine: Any = importlib.import_module(f"{package.__name__}.engine").Engine
            self._config: Any = importlib.import_module(f"{package.__name__}.config").CoreConfig

    def create(self, config: CoreConfig) -> Core:
        """Settings that it does not know are left out."""
        core: Core = self._engine(msgspec.convert(msgspec.structs.asdict(config), self._config))
        return core


@contextmanager
def _put_aside() -> Iterator[None]:
    """For a while nobody has imported the core. What is imported meanwhile is forgotten behind it,
    but the modules that were go on working: they hold one another."""
    own = _imported()
    for name in own:
        del sys.modules[name]
    actors = sys.modules["tokenreel.actors"]
    core = actors.core
    try:
        yield
    finally:
        for name in _imported():
            del sys.modules[name]
        sys.modules.update(own)
        actors.core = core  # type: ignore[attr-defined]


def _imported() -> dict[str, ModuleType]:
    return {
        name: module
        for name, module in sys.modules.items()
        if name == PACKAGE or name.startswith(f"{PACKAGE}.")
    }


def _load(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, root / "__init__.py", submodule_search_locations=[os.fspath(root)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[PACKAGE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
