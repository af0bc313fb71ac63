"""From where somebody asks, and whether that is among the addresses that may."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

Address = IPv4Address | IPv6Address


def asker(request: HttpRequest) -> Address | None:
    """The address that the outermost trusted proxy was asked from; None if nobody trusted says one.

    Each proxy adds who asked it at the right of X-Forwarded-For. What stands left of our own proxies' additions was
    written by whoever asked, who may write anything.
    """
    told = request.META.get("REMOTE_ADDR", "")
    if settings.TRUSTED_PROXIES:
        chain = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        told = chain[-settings.TRUSTED_PROXIES] if len(chain) >= settings.TRUSTED_PROXIES else ""
    try:
        address = ip_address(told)
    except ValueError:
        return None
    # A server that listens on both families sees 192.0.2.1 as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address


def is_within(address: Address | None, networks: Sequence[str]) -> bool:
    """Whether one of the networks (``192.0.2.0/24``, ``2001:db8::/32``) has the address."""
    return address is not None and any(address in ip_network(network) for network in networks)


def read_networks(text: str) -> list[str]:
    """The networks in a text, parted by commas or blanks, as they are written in full.

    :raises ValidationError: one of them is none.
    """
    try:
        return [str(ip_network(part)) for part in text.replace(",", " ").split()]
    except ValueError as problem:
        raise ValidationError(_("Write networks like 192.0.2.0/24 or 2001:db8::/32.")) from problem
