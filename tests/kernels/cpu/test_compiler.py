"""Parts end up in what Python calls; Python cannot call them by mistake."""

import pytest

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
