"""The guard: which addresses are refused, and that nothing can change between the check and the connection."""

import ipaddress

import httpx
import pytest

from server.domain.urls import Refused, check_url, is_public
from server.identity.egress import GuardedClient
from tests.support.issuer import running_issuer


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.9",
        "::1", "::", "fe80::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
        "64:ff9b:1:a9fe:a9:fe00:808:808", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "http://example.com", "ftp://example.com", "file:///etc/passwd", "https://", "https:///x",
        "https://user@example.com", "https://u:p@example.com", "https://exa mple.com", "https://example.com\\@evil",
        "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "http://localhost",
        "https://example.com:99999/", "https://exämple.com", "https://example.com/\n", "https://" + "a" * 2050,
        "https://[64:ff9b::7f00:1]/",
        "https://127.1/", "https://10.1/", "https://0177.0.0.1/", "https://0x7f000001/", "https://0xa9.254.169.254/",
        "https://2130706433/", "https://2852039166/", "https://169.254.169.254./", "https://localhost./",
        "https://a.localhost./",
        "https://example.com:0/", "https://a..b/", "https://-a.example/", "https://a-.example/", "https://1.2.3.999/",
        "https://" + "a" * 64 + ".example/", "https://" + "a." * 130 + "example/", "https://exa*mple.com/",
    ],
)  # fmt: skip
def test_urls_that_users_may_not_give(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com", "https://example.com./", "https://a_b.example:8443/x", "https://xn--bcher-kva.example/",
        "https://1password.example", "https://4.example/", "https://8.8.8.8/", "https://[2606:4700:4700::1111]/",
    ],
)  # fmt: skip
def test_urls_that_users_may_give(url: str) -> None:
    assert check_url(url)


def test_development_switch_allows_this_machine_and_no_other() -> None:
    assert check_url("http://127.0.0.1:9/x", allow_loopback=True) == "127.0.0.1"
    assert check_url("http://localhost:9", allow_loopback=True) == "localhost"
    for url in ("http://10.0.0.1/", "http://example.com/", "https://169.254.169.254/"):
        with pytest.raises(Refused):
            check_url(url, allow_loopback=True)


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["10.0.0.1"], ["1.1.1.1", "169.254.169.254"], ["::ffff:127.0.0.1"], []]
)
async def test_names_that_resolve_to_refused_addresses(found: list[str]) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return found

    client = GuardedClient(resolver=resolver)
    with pytest.raises(Refused):
        await client.get("https://looks-fine.example/", limit=10)
    await client.close()


async def test_connection_goes_to_the_address_that_was_checked_and_each_is_checked_anew() -> None:
    """DNS rebinding: the name answers differently each time it is asked."""
    async with running_issuer() as issuer:
        port = issuer.url.rpartition(":")[2]
        answers = [["127.0.0.1"], ["10.0.0.1"]]
        asked: list[str] = []

        async def resolver(host: str, _port: int) -> list[str]:
            asked.append(host)
            return answers.pop(0)

        client = GuardedClient(allow_loopback=True, resolver=resolver)
        assert (await client.get(f"http://localhost:{port}/jwks", limit=100_000)).status == 200
        with pytest.raises(Refused):
            await client.get(f"http://localhost:{port}/jwks", limit=100_000)
        assert asked == ["localhost", "localhost"]
        await client.close()


async def test_name_that_does_not_resolve_is_an_error_of_the_network() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise OSError("no such host")

    client = GuardedClient(resolver=resolver)
    with pytest.raises(httpx.HTTPError):
        await client.get("https://nowhere.example/", limit=10)
    await client.close()
