"""Who may be named in a request's `Host`: this machine, and nobody else.

A page elsewhere can make a browser resolve its own name to this address (DNS rebinding) and would
then read what is served here as if it were its own. But its name is no address, nor this machine's.
"""

import ipaddress
import socket
from collections.abc import Iterable

from starlette.types import Scope


class HostCheck:
    """Addresses, localhost, this machine's name and `names`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", socket.gethostname().lower(), *(n.lower() for n in names)}

    def allows(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and self._is_here(_without_port(hosts[0].decode("latin-1")))

    def _is_here(self, host: str) -> bool:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host.rstrip(".").lower() in self._names
        return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
