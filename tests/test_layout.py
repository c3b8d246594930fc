"""The shape of the tree, checked by the suite. TigerBeetle calls this `tidy`.

Each rule is one test; each message names the file and says what to do about it.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tokenreel"

# Who may import whom, most fundamental first. A package may import itself and what is listed.
ALLOWED: dict[str, set[str]] = {
    "messages": set(),
    "kernels": set(),
    "actors.core": {"messages"},
    "actors.runtime": {"messages"},
    "actors.text": {"messages"},
    "actors.worker": {"messages", "actors.runtime", "kernels"},
    "actors": {"messages", "actors.core", "actors.runtime", "actors.text"},  # the shells
    "frontend": {"messages", "actors.runtime", "actors.text"},
    "tools": {"messages", "actors", "actors.core", "actors.runtime", "actors.text", "frontend"},
}
TORCH_ALLOWED = {"kernels", "actors.worker"}
TRAINING = {"train_demo.py", "evaluate_demo.py"}
"""Tools that make the demo model; nobody runs them to serve."""
STRANGERS = {"actors"}  # The shells talk through sockets, so they never import one another.
# What the pure layers may take from outside: data structures and arithmetic, nothing that acts.
PURE: dict[str, set[str]] = {
    "messages": {"msgspec", "typing", "enum", "zlib", "struct", "hashlib", "collections"},
    "actors.core": {"msgspec", "typing", "enum", "collections", "dataclasses", "hashlib", "heapq"},
}
SOURCES = sorted(
    path
    for name in ("actors", "messages", "kernels", "frontend", "tools")
    for path in (ROOT / name).rglob("*.py")
)


def package_of(module: str) -> str:
    """The longest entry of ALLOWED that owns this dotted name."""
    owners = [name for name in ALLOWED if module == name or module.startswith(name + ".")]
    return max(owners, key=len)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the absolute import"
            for alias in node.names:  # `from p.actors import core` imports p.actors.core
                submodule = ROOT.joinpath(*(node.module or "").split(".")[1:], alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").exists()
                yield node.lineno, f"{node.module}.{alias.name}" if is_module else node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    owner = package_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        top = name.split(".")[0]
        if top == PACKAGE:
            target = package_of(name.removeprefix(PACKAGE + "."))
            home = target == owner and owner not in STRANGERS
            assert home or target in ALLOWED[owner], f"{where}: {owner} imports {target}"
        else:
            may_import_torch = owner in TORCH_ALLOWED or path.name in TRAINING
            assert may_import_torch or top not in {"torch", "triton"}, f"{where}: {top}"
            assert owner not in PURE or top in PURE[owner], (
                f"{where}: {owner} is pure, {top} is not"
            )


def test_no_module_is_named_after_the_standard_library() -> None:
    """`python tools/replay.py` puts tools/ first on sys.path; trace.py there would shadow trace."""
    named = {path for path in SOURCES if path.stem in sys.stdlib_module_names}
    assert not named


def test_every_module_is_named_after_its_noun() -> None:
    """A drawer for everything fills with everything."""
    assert not {path for path in SOURCES if path.stem in {"utils", "helpers", "common", "misc"}}


def test_every_package_is_listed_in_pyproject() -> None:
    """An unlisted sub-package works in an editable install and is missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        f"{PACKAGE}." + ".".join(p.parent.relative_to(ROOT).parts)
        for p in SOURCES
        if p.name == "__init__.py"
    }
    assert found == set(listed)
