"""`python -m tokenreel.tools.replay.under_test DIR VERB ...`: this tool, but with the core and the
messages of the package in DIR, a checkout or a copy of it. It may import nothing of them itself.
"""

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("messages", "actors/core")
"""What decides (`actors.runtime.code_identity`), and what journals and the tool speak in."""
MODULE = "tokenreel.tools.replay.under_test"


class NoPackage(Exception):
    """There is no core in this directory; the message says what is missing."""


def add_core_argument(parser: argparse.ArgumentParser) -> None:
    """As every verb takes it that can ask another core: `options.core`."""
    parser.add_argument(
        "--core",
        type=Path,
        metavar="DIR",
        help="ask the core in this checkout or copy of the package, not the installed one",
    )


def package_in(directory: Path) -> Path:
    """Where the package's folders lie: `directory` itself, or `tokenreel` in it."""
    for root in (directory, directory / "tokenreel"):
        if all((root / package / "__init__.py").is_file() for package in PACKAGES):
            return root
    raise NoPackage(f"{directory} holds no {' and '.join(PACKAGES)}: no checkout or package of it")


def run_child(directory: Path, arguments: Sequence[str]) -> int:
    """The exit code of `engine-replay` with these arguments and the core in `directory`."""
    command = [sys.executable, "-P", "-m", MODULE, str(package_in(directory)), *arguments]
    return subprocess.run(command, check=False).returncode


def use(root: Path) -> None:
    """From here on, `tokenreel.messages` and `tokenreel.actors.core` are those of `root`."""
    for package in PACKAGES:
        name = f"tokenreel.{package.replace('/', '.')}"
        if name in sys.modules:
            raise RuntimeError(f"{name} is imported already")
        place = root / package
        spec = importlib.util.spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=[os.fspath(place)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parent, _, child = name.rpartition(".")
        setattr(importlib.import_module(parent), child, module)  # as an import statement does


def main(arguments: Sequence[str]) -> int:
    root = Path(arguments[0])
    use(root)
    from tokenreel.actors.runtime.code_identity import source_hash
    from tokenreel.tools.replay.cli import main as ask
    from tokenreel.tools.replay.core_code import installed_core

    return ask(list(arguments[1:]), installed_core()._replace(source_hash=source_hash(root)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
