"""Addresses: HOST:PORT, as in flags, messages between nodes, METRICS and the arguments of clients.

    address = host ":" port
    host    = name | IPv4 | "[" IPv6 "]"
    name    = labels of 1 to 63 letters, digits, "-" and "_" (not of the last two alone), separated by dots
    port    = 1 to 65535

Brackets separate an IPv6 address from the port: without them `::1:6000` is an address itself. Underscores
are allowed although no standard for host names has them, because many private networks use them.

Left out: resolving names. That needs the network, and its result may change at any time.
"""

from __future__ import annotations

import ipaddress
from typing import Final

EVERYWHERE: Final = ("0.0.0.0", "::")
"""Wildcard addresses: a socket may listen there, but no peer can connect to them."""


def parse_host(text: str) -> str:
    """Parse a host name or an IP address, brackets or not; an IP address is returned in canonical form.

    Raises ValueError with one line that says what is wrong.

    >>> parse_host("walrus_node-1.internal"), parse_host("[0:0::1]"), parse_host("::1")
    ('walrus_node-1.internal', '::1', '::1')
    >>> parse_host("http://node")
    Traceback (most recent call last):
    ValueError: must be a host name or an IP address, not 'http://node'
    """
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        labels = text.split(".")
    if all(0 < len(label) < 64 and label.replace("-", "").replace("_", "").isalnum() for label in labels):
        return text
    raise ValueError(f"must be a host name or an IP address, not {text!r}")


def parse_address(text: str) -> tuple[str, int]:
    """Parse an address into host and port. Raises ValueError with one line that says what is wrong.

    >>> parse_address("127.0.0.1:9091"), parse_address("[::1]:9091"), parse_address("node_1:9091")
    (('127.0.0.1', 9091), ('::1', 9091), ('node_1', 9091))
    >>> parse_address("::1:9091")
    Traceback (most recent call last):
    ValueError: must be HOST:PORT with an IPv6 address in brackets, as [::1]:9091, not '::1:9091'
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(f"must be HOST:PORT, for example 127.0.0.1:9091, not {text!r}")
    if not 0 < int(port) < 1 << 16:
        raise ValueError(f"must be HOST:PORT with a port of 1 to 65535, not {text!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"must be HOST:PORT with an IPv6 address in brackets, as [::1]:9091, not {text!r}")
    try:
        return parse_host(host), int(port)
    except ValueError:
        raise ValueError(f"must be HOST:PORT with a host name or an IP address, not {text!r}") from None


def join_address(host: str, port: int) -> str:
    """Write a host and a port as an address.

    >>> join_address("::1", 6000), join_address("node-1", 6000)
    ('[::1]:6000', 'node-1:6000')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a socket that listens at this host.

    Of names, only `localhost` counts.

    >>> [is_loopback(host) for host in ("127.1.2.3", "::1", "localhost", "0.0.0.0", "::", "127.0.0.example")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
