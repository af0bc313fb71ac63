"""Addresses that others gave us: where our machines may be made to speak to, and where never.

A URL is looked up once, every address it has is judged, and the connection goes to one of those very addresses: a name
that means something else at the second look-up gains nothing. How an address is spelled (2130706433, 0177.1) does not
matter either, since what is judged is what is connected to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

import httpx

LOOK_UP_DEADLINE = 3.0
MOST_ADDRESSES = 4

Network = IPv4Network | IPv6Network
LookUp = Callable[[str, int], Sequence[str]]


class NotReachable(Exception):
    """Nobody is spoken to at such a URL. ``reason``: MALFORMED, NO_SUCH_NAME or INTERNAL_ADDRESS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} {detail}".strip())
        self.reason = reason
        self.detail = detail


class Target(NamedTuple):
    """Where to connect to, and as whom to ask there."""

    urls: list[httpx.URL]
    headers: dict[str, str]
    extensions: dict[str, Any]


def networks(texts: Collection[str]) -> list[Network]:
    """Networks as a setting writes them: ``127.0.0.0/8``, ``::1/128``."""
    return [ip_network(text) for text in texts]


def parse(url: str) -> httpx.URL:
    """An absolute http or https URL without a user, a password or a fragment.

    :raises NotReachable: MALFORMED.
    """
    try:
        parsed = httpx.URL(url)
        port = parsed.port
    except (httpx.InvalidURL, ValueError) as fault:
        raise NotReachable("MALFORMED", str(fault)[:80]) from fault
    is_plain = parsed.host and not parsed.userinfo and not parsed.fragment
    if parsed.scheme not in ("http", "https") or not is_plain or not (port is None or 0 < port < 65536):
        raise NotReachable("MALFORMED")
    return parsed


def is_outside(text: str, *, internal: Sequence[Network] = ()) -> bool:
    """Whether an address is one of the public internet, or of the ``internal`` networks that are allowed."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if any(address in network for network in internal):
        return True
    within = _within(address)
    if within is not None:
        return is_outside(str(within), internal=internal)
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    # Multicast and reserved ones count as global, and are nobody to speak to.
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def _within(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, translated or tunnelled."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def look_up(host: str, port: int) -> list[str]:
    """Every address of a name, in the order in which the system would try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_rest, sockaddr in found))


async def aim(url: str, *, internal: Sequence[Network] = (), find: LookUp = look_up) -> Target:
    """Look a URL's name up, once, and judge what it means.

    :raises NotReachable: one address of the name is an internal one, or it has none.
    """
    parsed = parse(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        host = parsed.raw_host.decode("ascii")
        found = await asyncio.get_running_loop().run_in_executor(None, find, host, port)
    except (OSError, UnicodeError) as fault:
        raise NotReachable("NO_SUCH_NAME", str(fault)[:80]) from fault
    if not found:
        raise NotReachable("NO_SUCH_NAME")
    if not all(is_outside(address, internal=internal) for address in found):
        raise NotReachable("INTERNAL_ADDRESS")
    return Target(
        [parsed.copy_with(host=address) for address in found[:MOST_ADDRESSES]],
        {"host": parsed.netloc.decode("ascii")},
        {"sni_hostname": host},
    )


def check(url: str, *, internal: Sequence[Network] = (), find: LookUp = look_up) -> None:
    """Judge a URL before it is kept. Before each use it is judged anew: what a name means changes.

    :raises NotReachable:
    """

    async def judge() -> None:
        async with asyncio.timeout(LOOK_UP_DEADLINE):
            await aim(url, internal=internal, find=find)

    # A loop of our own: asyncio.run would wait for a look-up that outlives the deadline.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(judge())
    except TimeoutError as fault:
        raise NotReachable("NO_SUCH_NAME", "the look-up took too long") from fault
    finally:
        loop.close()
