"""Only a browser that knows this machine by its address or its own name is answered."""

import socket

import pytest

from tokenreel.frontend.host_check import HostCheck


@pytest.mark.parametrize(
    ("hosts", "is_here"),
    [
        ([b"127.0.0.1:8000"], True),
        ([b"10.0.0.7"], True),
        ([b"[fe80::1]:80"], True),
        ([b"localhost:1"], True),
        ([b"Localhost."], True),
        ([socket.gethostname().encode()], True),
        ([b"box.lan:8000"], True),
        ([b"evil.example"], False),
        ([b"box.lan.evil.example"], False),
        ([b"localhost:80@evil.example"], True),  # what stands behind the colon is no name
        ([b"\xff"], False),
        ([b""], False),
        ([], False),
        ([b"localhost", b"evil.example"], False),
    ],
)
def test_a_host_is_an_address_or_this_machine(hosts: list[bytes], is_here: bool) -> None:
    scope = {"headers": [(b"accept", b"*/*"), *((b"host", host) for host in hosts)]}
    assert HostCheck(["Box.lan"]).allows(scope) is is_here
