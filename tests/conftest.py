"""What holds for the whole suite.

Kernels are kept where the worker keeps them: few tests have to wait for the compiler. The folder is
chosen here, before anything imports Numba, which asks for it then.
"""

import signal

from tokenreel.actors.worker.kernel_cache import use_kernel_cache

use_kernel_cache()


def pytest_configure() -> None:
    """Whoever is started from the background or under nohup ignores signals, and so would every
    process that a test starts and then interrupts."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    from tokenreel.kernels.cpu.compiler import Specialized

    # To look at every call would double the time of many tests.
    Specialized.checks_every = 7
