"""The process that compiles a forward step: when there is one, and that it harms nobody."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenreel.actors.runtime.parent import ORPHAN_EXIT_CODE
from tokenreel.actors.worker import compiling_ahead as module
from tokenreel.actors.worker.compiling_ahead import CompilingAhead, compiling_ahead
from tokenreel.actors.worker.kernel_cache import VARIABLE
from tokenreel.actors.worker.loading import load
from tokenreel.messages.options import EngineOptions

NewOptions = Callable[..., EngineOptions]
STEP_INPUT = {"step_input._measure": 1, "step_input._fill": 1, "step_input._write": 1}


def kept(folder: Path) -> Counter[str]:
    """How many types of each function's arguments are kept compiled."""
    return Counter(path.name.partition("-")[0] for path in folder.rglob("*.nbc"))


@pytest.fixture
def new_options(small_model: Callable[[str], Any]) -> NewOptions:
    def make(variant: str = "llama", **changes: Any) -> EngineOptions:
        directory = str(small_model(variant).directory)
        values: dict[str, Any] = {"model": directory, "device": "cpu"} | changes
        return EngineOptions(served_model_name="m", **values)

    return make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MODULE", "tokenreel.no_such_module")


def test_it_compiles_and_a_second_start_has_none(
    folder: Path, new_options: NewOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    options = new_options()
    capfd.readouterr()
    with compiling_ahead(options) as compilation:
        assert compilation is not None
        compilation.wait()
    assert kept(folder) == {"decoder_step.forward": 1, **STEP_INPUT}
    assert capfd.readouterr() == ("", "")
    with compiling_ahead(options) as compilation:
        assert compilation is None
    with compiling_ahead(new_options(dtype="bfloat16")) as compilation:
        assert compilation is not None, "another format is compiled apart"


def test_the_worker_calls_what_it_compiled(folder: Path, new_options: NewOptions) -> None:
    """Of one type each: otherwise the worker had compiled another, and waited for nothing."""
    options = new_options()
    with compiling_ahead(options) as compilation:
        assert compilation is not None
        compilation.wait()
        load(options, compilation)
    now = kept(folder)
    assert {name: now[name] for name in ("decoder_step.forward", *STEP_INPUT)} == {
        "decoder_step.forward": 1,
        **STEP_INPUT,
    }


def test_it_is_told_that_the_worker_waits(
    folder: Path,
    new_options: NewOptions,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also if it has nothing to compile itself."""
    options = new_options()
    load(options)
    for is_running in (False, True):
        monkeypatch.setattr(CompilingAhead, "is_running", lambda self, it=is_running: it)
        capfd.readouterr()
        with compiling_ahead(options) as compilation:
            load(options, compilation)
        assert ("compiling kernels" in capfd.readouterr().err) is is_running
        for mark in folder.glob("has-*"):
            mark.unlink()


def test_without_it_the_worker_does_its_work(
    folder: Path, failing: None, new_options: NewOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    options = new_options()
    with compiling_ahead(options) as compilation:
        assert load(options, compilation).ready.num_blocks > 0
    assert "no_such_module" in capfd.readouterr().err, "why it failed is told"
    with compiling_ahead(options) as compilation:
        assert compilation is not None, "it is tried again"


def test_where_there_can_be_no_more_processes_the_worker_is_alone(
    folder: Path,
    new_options: NewOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(module.subprocess, "Popen", refuse)
    with compiling_ahead(new_options()) as compilation:
        assert compilation is None
    assert "Resource temporarily unavailable" in capsys.readouterr().err


def test_a_worker_that_fails_leaves_nothing_behind(folder: Path, new_options: NewOptions) -> None:
    with (
        pytest.raises(RuntimeError, match="out of luck"),
        compiling_ahead(new_options()) as compilation,
    ):
        assert compilation is not None
        raise RuntimeError("out of luck")
    assert compilation._process.returncode is not None
    with compiling_ahead(new_options()) as compilation:
        assert compilation is not None, "the kernel is not taken for compiled"


@pytest.mark.parametrize(
    "changes", [{"device": "cuda"}, {"model": "/nowhere"}, {"dtype": "float8"}], ids=str
)
def test_there_is_none_where_it_is_of_no_use(
    changes: dict[str, Any], folder: Path, new_options: NewOptions
) -> None:
    with compiling_ahead(new_options(**changes)) as compilation:
        assert compilation is None


def test_there_is_none_where_nothing_is_kept(
    new_options: NewOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    with compiling_ahead(new_options()) as compilation:
        assert compilation is None


def test_it_ends_with_whoever_began_it(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", module._MODULE, "float32", "as-is", "1"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(os.environ))
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait() == ORPHAN_EXIT_CODE
