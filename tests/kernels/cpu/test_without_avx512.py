"""The kernels of a processor that has AVX2 and nothing newer hold what the others promise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

FOLDER = Path(__file__).parent
TESTS = (
    "test_product.py",
    "test_lane_selection.py",
    "test_int8_product.py",
    "test_short_products.py",
)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or not binding.get_host_cpu_features().get("avx2"),
    reason="this CPU has no AVX2",
)
def test_avx2_is_enough(tmp_path: Path) -> None:
    """In a process of its own: what there is to choose from is read when kernels are imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(FOLDER),
        # Zen 3; kept apart from what was compiled for this processor.
        "NUMBA_CPU_NAME": "znver3",
        "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+avx,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2,+ssse3",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "without_avx512", "-p", "no:cacheprovider"]
        + [str(FOLDER / name) for name in TESTS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stdout[-3000:]
    assert " passed" in told.stdout
