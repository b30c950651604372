"""Which URLs we hand on: public web addresses, in whatever spelling."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import urlsplit

_LOCAL_NAMES = (
    "localhost",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "localdomain",
    "home.arpa",
    "onion",
    "svc",
    "test",
    "invalid",
)
_METADATA = ("metadata", "metadata.google.internal", "instance-data", "168.63.129.16")
# IPv6 prefixes whose last 32 bits are an IPv4 address: NAT64, and the translated form of SIIT.
_CARRIES_IPV4 = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")


def check(url: str, *, allow_private: bool) -> str | None:
    """Say what is wrong with an answer URL; None if nothing is.

    Names are not looked up: what they lead to tomorrow nobody knows. Addresses are judged in
    every spelling that a browser or libc would take.

    Returns:
        `invalid_url`, `url_not_allowed`, or None.
    """
    if any(ord(char) <= 32 or char in '\\"<>^`{|}\x7f' for char in url):
        return "invalid_url"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "invalid_url"
    if parts.scheme.lower() not in ("http", "https") or not host:
        return "invalid_url"
    if "[" in parts.netloc and ":" not in host:
        return "invalid_url"  # the address of some later IP version
    if "@" in parts.netloc:
        return "url_not_allowed"
    return None if allow_private or _is_public(host) else "url_not_allowed"


def _is_public(host: str) -> bool:
    # An escape has no business in a host; only IPv6 zones have a per cent sign.
    if "%" in host and ":" not in host:
        return False
    # What is judged is what a resolver gets: IDNA drops soft hyphens and knows four full stops.
    name = _ascii(unicodedata.normalize("NFKC", host).lower().replace("。", ".").rstrip("."))
    address = _address(name.strip("[]").partition("%")[0])
    if address is not None:
        return str(address) not in _METADATA and _is_global(address)
    labels = name.split(".")
    if len(labels) < 2 or name in _METADATA or not re.fullmatch(r"[a-z0-9.\-]+", name):
        return False
    # A last label of digits is an address to somebody, even if not to us.
    return not (
        labels[-1][:1].isdigit() or any(f".{name}".endswith(f".{end}") for end in _LOCAL_NAMES)
    )


def _ascii(name: str) -> str:
    if ":" in name:
        return name  # IPv6, which is no name
    try:
        return name.encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        return "\0"


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address as inet_aton does too: decimal, octal, hexadecimal, fewer parts."""
    if ":" in name:
        try:
            return ipaddress.IPv6Address(name)
        except ValueError:
            return ipaddress.IPv6Address(0)
    parts = name.split(".")
    numbers = [_number(part) for part in parts]
    if not 1 <= len(parts) <= 4 or any(number is None for number in numbers):
        return None
    *firsts, last = [number or 0 for number in numbers]
    if any(first > 255 for first in firsts) or last >= 256 ** (5 - len(parts)):
        return ipaddress.IPv4Address(0)
    value = sum(first << 8 * (3 - place) for place, first in enumerate(firsts)) + last
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int | None:
    if re.fullmatch(r"0x[0-9a-f]*", part):
        return int(part, 16) if len(part) > 2 else 0
    if re.fullmatch(r"0[0-7]+", part):
        return int(part, 8)
    return int(part) if re.fullmatch(r"0|[1-9][0-9]{0,10}", part) else None


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if any(address in network for network in _CARRIES_IPV4):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _LOCAL_NAT64 or (inner is None and int(address) >> 32 == 0):
            return False
        if inner is not None:
            return _is_global(inner)
    return address.is_global and not address.is_multicast
