"""What a user installs: everything that runs, everything that is not Python, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("actors", "messages", "kernels", "frontend", "tools")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built from a copy, so that the build leaves nothing in the working tree."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    yield path


def test_the_wheel_holds_every_file_that_the_package_is_made_of(wheel: Path) -> None:
    expected = {
        f"tokenreel/{path.relative_to(ROOT).as_posix()}"
        for name in FOLDERS
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_the_demo_model_is_in_the_wheel_and_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {
            info.filename.removeprefix("tokenreel/tools/demo_model/"): info.file_size
            for info in archive.infolist()
            if info.filename.startswith("tokenreel/tools/demo_model/")
        }
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= sizes.keys()
    assert sum(sizes.values()) <= 6_000_000


def test_an_installed_wheel_runs_its_commands(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        # An editable install beside it must not answer for the wheel.
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "import tokenreel.tools.up as up, tokenreel.tools.replay.cli as replay\n"
        f"assert up.__file__.startswith({str(site)!r}), up.__file__\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['engine-up', '--help']\n"
        "up.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--max-num-seqs" in done.stdout
