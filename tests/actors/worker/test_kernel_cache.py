"""Where kernels are kept: found again, one writer at a time, never where others could write."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenreel.actors.worker import kernel_cache
from tokenreel.actors.worker.kernel_cache import (
    LEVEL_VARIABLE,
    MAX_VERSIONS,
    VARIABLE,
    kernel_cache_held,
    use_kernel_cache,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; temporary files go beside it."""
    monkeypatch.setenv(VARIABLE, "put back when the test ends")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


def test_the_same_kernels_have_the_same_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = use_kernel_cache()
    assert folder is not None
    assert os.environ[VARIABLE] == str(folder)
    assert folder.parent == home / "cache" / "tokenreel" / "kernels"
    monkeypatch.delenv(VARIABLE)
    assert use_kernel_cache() == folder


def test_what_is_optimized_otherwise_is_kept_apart(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE)
    folder = use_kernel_cache()
    assert os.environ[LEVEL_VARIABLE] == "2"
    monkeypatch.setenv(LEVEL_VARIABLE, "1")
    assert use_kernel_cache() != folder
    assert os.environ[LEVEL_VARIABLE] == "1", "who asks for a level has it"


def test_a_folder_that_is_named_has_one_for_these_kernels(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other kernels' results would be taken for these: Numba does not look at what they call."""
    (home / "own").mkdir()
    (home / "own" / "of somebody else").mkdir()
    monkeypatch.setenv(VARIABLE, str(home / "own"))
    folder = use_kernel_cache()
    assert folder is not None
    assert folder.parent == home / "own" / "tokenreel" / "kernels"
    assert os.environ[VARIABLE] == str(folder)
    assert use_kernel_cache() == folder, "a process that is started finds what was chosen"
    assert (home / "own" / "of somebody else").exists()


def test_a_named_folder_that_cannot_be_written_is_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv(VARIABLE, str(home / "file"))
    folder = use_kernel_cache()
    assert folder is not None
    assert folder.parent == home / "cache" / "tokenreel" / "kernels"


COMPILE = """
from tokenreel.kernels.cpu.compiler import compiled
@compiled
def following(number):
    return number + 1
print(following(1))
"""


def test_without_any_place_kernels_are_compiled_all_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (home / "cache", home / f"tokenreel-kernels-{os.getuid()}"):
        place.write_text("a file where a folder should be")
    monkeypatch.setenv(VARIABLE, str(home / "cache"))
    assert use_kernel_cache() is None
    told = subprocess.run([sys.executable, "-P", "-c", COMPILE], capture_output=True, text=True)
    assert (told.stdout, told.stderr) == ("2\n", "")


def test_code_for_tiles_is_not_found_where_the_system_forbids_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = set()
    for allowed in (True, False):
        monkeypatch.setattr(kernel_cache, "may_use_tiles", lambda allowed=allowed: allowed)
        monkeypatch.delenv(VARIABLE, raising=False)
        folders.add(use_kernel_cache())
    assert len(folders) == 2


def _block(home: Path) -> None:
    (home / "cache").write_text("a file where a folder should be")


def _let_others_write(home: Path) -> None:
    folder = home / "cache" / "tokenreel" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)


@pytest.mark.parametrize("spoil", [_block, _let_others_write])
def test_a_home_that_cannot_be_used_is_replaced(home: Path, spoil: Callable[[Path], None]) -> None:
    spoil(home)
    folder = use_kernel_cache()
    assert folder is not None
    assert folder.parent == home / f"tokenreel-kernels-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_home_the_working_directory_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    folder = use_kernel_cache()
    assert folder is not None
    assert folder.is_relative_to(home)


def test_old_versions_go_and_this_one_stays(home: Path) -> None:
    parent = home / "cache" / "tokenreel" / "kernels"
    (parent / "somebody's thesis").mkdir(parents=True)
    os.utime(parent / "somebody's thesis", (0, 0))
    for number in range(MAX_VERSIONS + 2):
        folder = parent / f"{number:032x}"
        folder.mkdir()
        os.utime(folder, (number, number))
    parent.chmod(0o700)
    current = use_kernel_cache()
    assert current is not None
    kept = {path.name for path in parent.iterdir()}
    last = range(3, MAX_VERSIONS + 2)
    assert kept == {current.name, "somebody's thesis", *(f"{number:032x}" for number in last)}


HOLD_UNTIL_INPUT_ENDS = """
import sys
from tokenreel.actors.worker.kernel_cache import kernel_cache_held
with kernel_cache_held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_compiles_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = use_kernel_cache()
    assert folder is not None
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD_UNTIL_INPUT_ENDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "held\n"
    looks = []

    def look_again(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            process.communicate()

    monkeypatch.setattr(kernel_cache.time, "sleep", look_again)
    with kernel_cache_held():
        assert len(looks) == 3
    assert process.returncode == 0


def test_what_cannot_be_locked_is_used_all_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kernel_cache_held():
        pass
    monkeypatch.setenv(VARIABLE, str(home / "missing"))
    with kernel_cache_held():
        pass


WHAT_IS_IMPORTED = """
import sys, tokenreel.actors.worker.process
print(*{"numba", "torch"} & sys.modules.keys())
"""


def test_the_folder_is_chosen_before_the_compiler_is_imported() -> None:
    """It asks for its folder once, when it is imported."""
    told = subprocess.run(
        [sys.executable, "-P", "-c", WHAT_IS_IMPORTED], capture_output=True, text=True
    )
    assert (told.stdout, told.stderr) == ("\n", "")
