"""At a first start, a process that compiles half of all: what makes a step's arrays, and the step.

It begins before PyTorch is imported, and needs none; the worker compiles the rest meanwhile, and
finds these kept on disk. If anything is amiss the worker compiles them too, as it would alone.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenreel.actors.runtime.actor import StartError
from tokenreel.actors.runtime.parent import leave_with_parent
from tokenreel.actors.worker.kernel_cache import AHEAD_LOCK, VARIABLE, kernel_cache_held
from tokenreel.actors.worker.model_config import DTYPES, ConfigFile
from tokenreel.actors.worker.models.registry import read_decoder_config
from tokenreel.messages.options import EngineOptions

MAX_WAIT_S = 120.0
_MODULE = "tokenreel.actors.worker.compiling_ahead"
_CUDA_DEVICE = Path("/dev/nvidiactl")


class CompilingAhead:
    """The process, which ends with this one, whatever happens to it."""

    def __init__(self, number_format: list[str]) -> None:
        """Raises OSError if there can be no more processes."""
        # It ends when its input does.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, *number_format], stdin=subprocess.PIPE
        )

    def wait(self) -> None:
        """Until what it compiles is kept, or it has failed, of which it says why."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(MAX_WAIT_S)

    def is_running(self) -> bool:
        """It mostly compiles then; if all is kept it ends before the worker asks."""
        return self._process.poll() is None

    def has_succeeded(self) -> bool:
        return self._process.returncode == 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextlib.contextmanager
def compiling_ahead(options: EngineOptions) -> Iterator[CompilingAhead | None]:
    """None: there is nothing to compile that could be handed over. To be left when the worker has
    carried out a step."""
    folder, number_format = os.environ.get(VARIABLE), _number_format(options)
    if folder is None or number_format is None:
        yield None
        return
    # Numba alone could tell whether it has these kernels: it takes half a second to ask.
    mark = Path(folder, "-".join(["has", sys.implementation.cache_tag or "", *number_format]))
    if mark.exists():
        yield None
        return
    try:
        compilation = CompilingAhead(number_format)
    except OSError as error:
        print(f"worker: no second process to compile with: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield compilation
    finally:
        compilation.close()
    if compilation.has_succeeded():
        with contextlib.suppress(OSError):
            mark.touch()


def _number_format(options: EngineOptions) -> list[str] | None:
    """What a forward step depends on: element type, quantization, number of attention's kinds. None
    if the model is not for a CPU, or cannot be loaded, which is told when that is tried."""
    has_gpu = options.device == "auto" and _CUDA_DEVICE.exists()
    if has_gpu or options.device not in ("auto", "cpu"):
        return None
    try:
        config = read_decoder_config(ConfigFile.read(Path(options.model)))
    except StartError:
        return None
    dtype = config.dtype if options.dtype == "auto" else options.dtype
    if dtype not in DTYPES:
        return None
    return [dtype, options.quantization or "as-is", str(len(set(config.sliding_windows)))]


def main(dtype: str, quantization: str, num_kinds: str) -> None:
    import gc

    # What is made stays until the end, which is near.
    gc.disable()
    from tokenreel.actors.worker import step_input
    from tokenreel.kernels.cpu.compiler import Specialized
    from tokenreel.kernels.cpu.decoder_step import forward
    from tokenreel.kernels.cpu.forward_arguments import forward_arguments
    from tokenreel.kernels.cpu.product_format import ELEMENT_TYPES

    arguments = forward_arguments(
        ELEMENT_TYPES[dtype], None if quantization == "as-is" else quantization, int(num_kinds)
    )
    with kernel_cache_held(AHEAD_LOCK):
        step_input.compile_ahead()  # The worker wants it first.
        Specialized(forward).compile(*arguments)
    # Taking everything apart would take a quarter of a second.
    os._exit(0)


if __name__ == "__main__":
    leave_with_parent(sys.stdin.fileno())
    main(*sys.argv[1:])
