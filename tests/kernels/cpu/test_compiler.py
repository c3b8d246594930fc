"""Parts end up in what Python calls; Python cannot call them by mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest
from numba import config

from tokenreel.kernels.cpu.compiler import Specialized, compiled, inlined, part


@part
def following(number):  # type: ignore[no-untyped-def]
    return number + 1


@inlined
def doubled(number):  # type: ignore[no-untyped-def]
    return following(number) * 2


@compiled
def both(number):  # type: ignore[no-untyped-def]
    return doubled(number) + following(number)


def test_parts_are_compiled_for_each_type() -> None:
    assert both(3) == 12
    assert both(1.5) == 7.5


def test_python_calls_a_part_only_when_it_is_compiled_alone() -> None:
    assert both(3) == 12
    with pytest.raises(TypeError):
        following(3)
    assert compiled(following)(3) == 4


def test_a_specialized_function_is_for_its_first_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Specialized, "checks_every", 1)
    specialized = Specialized(both)
    assert specialized(3) == specialized(3) == 12
    with pytest.raises(TypeError, match="specialized for"):
        specialized(1.5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def clear_a_part(path: Path) -> None:
    """What is around machine code may stay as it was."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, scramble, clear_a_part])
@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_a_damaged_result_on_disk_is_compiled_anew(
    suffix: str,
    damage: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiled(both)(3) == 12
    (kept,) = tmp_path.rglob(f"*.{suffix}")
    written = kept.read_bytes()
    damage(kept)
    assert compiled(both)(3) == 12
    assert len(kept.read_bytes()) >= len(written) - 64, "and kept"


def test_a_result_of_other_types_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two processes may leave it that write at once."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    first = compiled(both)
    assert (first(3), first(1.5)) == (12, 7.5)
    of_ints, of_floats = sorted(tmp_path.rglob("*.nbc"))
    of_ints.write_bytes(of_floats.read_bytes())
    assert compiled(both)(3) == 12
