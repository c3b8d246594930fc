"""A server's URL, as people write it."""

import pytest

from tokenreel.tools.bench.client.address import Address, BadUrl, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000, False, "")),
        ("127.0.0.1:8000", Address("127.0.0.1", 8000, False, "")),
        ("http://localhost:8000/v1/", Address("localhost", 8000, False, "")),
        ("https://models.example/gateway/v1", Address("models.example", 443, True, "/gateway")),
        ("http://[::1]:8080", Address("::1", 8080, False, "")),
    ],
)
def test_urls_are_taken_with_and_without_what_clients_append(url: str, address: Address) -> None:
    assert parse_address(url) == address


def test_the_host_header_names_the_port_unless_it_is_the_usual_one() -> None:
    assert parse_address("http://[::1]:8080").host_header == "[::1]:8080"
    assert parse_address("https://models.example").host_header == "models.example"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a", "http://", "http://a:b", "http://a?b", "http://u:p@a"),
        *("http://a..b:80", "http://[::1", "http://a:0"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        parse_address(url)
