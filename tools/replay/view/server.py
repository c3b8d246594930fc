"""Listens for the view's clients: on a port of this machine, or on a Unix socket for the engine's
frontend. Serves until it is told to leave."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

from starlette.types import ASGIApp

from tokenreel.frontend.http_server import HttpServer
from tokenreel.tools.command import UsageError
from tokenreel.tools.listener import listen

MAX_CONNECTIONS = 128
BACKLOG = 64


def listen_on_port(host: str, port: int) -> socket.socket:
    """A bound and listening socket. Raises UsageError with a line that says what to do."""
    try:
        return listen(host, port, BACKLOG)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} on {host} is in use; choose another with --port"
            ) from None
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def listen_on_socket(path: Path) -> socket.socket:
    """A listening Unix socket that its owner alone may use. Raises UsageError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listener


def serve(
    app: ASGIApp,
    listener: socket.socket,
    background: Callable[[], Coroutine[None, None, None]],
    on_started: Callable[[], None],
) -> None:
    """Returns after SIGINT or SIGTERM, when what was being answered has been. `background` runs
    beside it; its exception ends the server."""
    listener.setblocking(False)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, listener, background, on_started))


async def _serve(
    app: ASGIApp,
    listener: socket.socket,
    background: Callable[[], Coroutine[None, None, None]],
    on_started: Callable[[], None],
) -> None:
    server = HttpServer(app, MAX_CONNECTIONS, on_started)

    def leave() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    beside = asyncio.create_task(background())
    beside.add_done_callback(lambda task: leave() if _has_failed(task) else None)
    await server.serve(sockets=[listener])
    beside.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beside


def _has_failed(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None
