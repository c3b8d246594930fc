"""`engine-replay view`: a web page on a journal, served to this machine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreel.tools.exit_codes import EXIT_OK
from tokenreel.tools.replay.core_code import installed_core
from tokenreel.tools.replay.reading.journal import add_journal_argument

if TYPE_CHECKING:
    import socket

DEFAULT_PORT = 8010
NICENESS = 10
"""Of a view beside a running engine: it takes what the engine leaves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serves a page with a time line of the run, and everything that the scheduler knew at each "
        "step. On a run that still goes on, it keeps up. Ctrl-C ends it."
    )
    add_journal_argument(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any other than this one shows the journal to whoever reaches "
        "it (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help="0: any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="show the page in the browser of this machine",
    )
    # For engine-up, which serves the view of its own run under /debug.
    parser.add_argument("--socket", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--death-fd", type=int, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    if options.socket is not None:
        _serve_beside_engine(options)
    else:
        _serve_to_people(options)
    return EXIT_OK


def _serve_to_people(options: argparse.Namespace) -> None:
    from tokenreel.frontend.host_check import HostCheck
    from tokenreel.tools.replay.view.app import Api, make_app
    from tokenreel.tools.replay.view.recorded import Recorded
    from tokenreel.tools.replay.view.server import listen_on_port, serve

    with listen_on_port(options.host, options.port) as listener:
        recorded = Recorded(options.journal, options.code or installed_core(), progress=True)
        api = Api(lambda: recorded)
        address = _address(options.host, listener)

        def announce() -> None:
            print(f"{recorded.run_id} is shown at {address} (Ctrl-C to stop)", flush=True)
            if options.open:
                import webbrowser

                webbrowser.open(address)

        serve(make_app(api, HostCheck([options.host])), listener, api.follow, announce)


def _serve_beside_engine(options: argparse.Namespace) -> None:
    """On a Unix socket, for the engine's frontend; the journal may not be there yet."""
    import os

    from tokenreel.actors.runtime.parent import leave_with_parent
    from tokenreel.frontend.host_check import HostCheck
    from tokenreel.tools.replay.view.app import Api, make_app
    from tokenreel.tools.replay.view.recorded import Recorded
    from tokenreel.tools.replay.view.server import listen_on_socket, serve

    leave_with_parent(options.death_fd)
    os.nice(NICENESS)
    api = Api(lambda: Recorded(options.journal, options.code or installed_core()))
    with listen_on_socket(options.socket) as listener:
        serve(make_app(api, HostCheck()), listener, api.follow, lambda: None)


def _address(host: str, listener: "socket.socket") -> str:
    port = listener.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port
