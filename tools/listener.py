"""The port on which a tool serves. Who opens it words what went wrong."""

import socket


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A bound and listening socket: whoever connects from now on waits. Raises socket.gaierror for
    a host without an address, OSError for a port that cannot be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
