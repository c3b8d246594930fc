"""Where a server is: an URL, taken apart once."""

from typing import NamedTuple
from urllib.parse import urlsplit


class BadUrl(ValueError):
    """No address of an HTTP server; the message says why."""


class Address(NamedTuple):
    host: str
    port: int
    is_tls: bool
    prefix: str
    """Of every path, without a slash at its end."""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


def parse_address(url: str) -> Address:
    """`http://host:port`, with or without the `/v1` that OpenAI's clients are given.

    Raises BadUrl.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadUrl(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not _is_host(host) or port == 0:
        raise BadUrl(f"{url} is no address such as http://127.0.0.1:8000")
    if parts.query or parts.fragment or parts.username:
        raise BadUrl(f"{url}: only scheme, host, port and path have a meaning here")
    is_tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Address(host, port or (443 if is_tls else 80), is_tls, prefix)


def _is_host(name: str) -> bool:
    """Whether it can be asked for: the resolver is given names in IDNA's encoding."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False
