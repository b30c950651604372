"""Which URLs we hand on: public web addresses, in whatever spelling."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

_LOCAL_NAMES = (
    *("localhost", "local", "internal", "intranet", "lan", "home", "corp", "localdomain"),
    *("home.arpa", "onion", "svc", "test", "invalid"),
    # Services whose every name is an address in disguise, or leads to this machine.
    *("nip.io", "sslip.io", "xip.io", "traefik.me", "localtest.me", "lvh.me"),
)
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            # Versions of Python differ about these.
            *("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20"),
            "168.63.129.16/32",  # public, but for Azure's machines it is their host
            "2002::/16",  # 6to4: its bits are an IPv4 address
        ),
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


def check(url: str, *, allow_private: bool) -> str | None:
    """Say what is wrong with an answer URL; None if nothing is.

    Names are not looked up: what they lead to tomorrow nobody knows. Addresses are taken in
    their usual spelling only, since one and the same odd one is another host to each reader.

    Returns:
        `invalid_url`, `url_not_allowed`, or None.
    """
    if any(ord(char) <= 32 or char in '\\"<>^`{|}\x7f' for char in url):
        return "invalid_url"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "invalid_url"
    if parts.scheme.lower() not in ("http", "https") or not host or port == 0:
        return "invalid_url"
    if "[" in parts.netloc and ":" not in host:
        return "invalid_url"  # the address of some later IP version
    if "@" in parts.netloc:
        return "url_not_allowed"
    return None if allow_private or _is_public(host) else "url_not_allowed"


def _is_public(host: str) -> bool:
    name = _as_resolved(host)
    try:
        return _is_public_address(ipaddress.ip_address(name))
    except ValueError:
        return _is_public_name(name)


def _as_resolved(host: str) -> str:
    """Return what a resolver gets: IDNA drops soft hyphens and knows four full stops."""
    name = unicodedata.normalize("NFKC", host).lower().replace("。", ".").rstrip(".")
    if ":" in name:
        return name  # IPv6, which is no name
    try:
        return name.encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        return ""


def _is_public_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        # Outside of it are, among others, all the ways to write an IPv4 address as an IPv6 one.
        address not in _GLOBAL_UNICAST or address.scope_id is not None
    ):
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def _is_public_name(name: str) -> bool:
    labels = name.split(".")
    if len(labels) < 2 or not re.fullmatch(r"[a-z0-9.\-]+", name):
        return False
    # A last label that begins with a digit is an address to somebody: in decimal, octal,
    # hexadecimal, or in fewer parts.
    return not (
        labels[-1][:1].isdigit() or any(f".{name}".endswith(f".{end}") for end in _LOCAL_NAMES)
    )
