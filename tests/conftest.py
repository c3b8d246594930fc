"""What holds for the whole suite."""

import signal

from tokenreel.actors.worker.kernel_cache import use_kernel_cache


def pytest_configure() -> None:
    """Whoever is started from the background or under nohup ignores signals, and so would every
    process that a test starts and then interrupts.

    Kernels are kept where the worker keeps them: few tests have to wait for the compiler.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    use_kernel_cache()
