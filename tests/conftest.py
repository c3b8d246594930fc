"""What holds for the whole suite."""

import signal


def pytest_configure() -> None:
    """Whoever is started from the background or under nohup ignores signals, and so would every
    process that a test starts and then interrupts."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
