"""Which of this host's network interfaces faces the other hosts. The standard library only; nothing is sent."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable

_SIOCGIFADDR = 0x8915


def facing(hosts: Iterable[str]) -> str | None:
    """The interface by which this host reaches the first of `hosts` that is another one; None where none is found.

    gloo takes the address that the host's own name has, which is the loopback's in many an /etc/hosts.
    """
    for host in hosts:
        try:
            found = socket.getaddrinfo(host, 9, socket.AF_INET, socket.SOCK_DGRAM)
        except OSError:
            continue  # an unknown host: the launcher tells of it
        for *_, address in found:
            source = _source(str(address[0]))
            if source is not None and source != address[0] and (name := _interface(source)):
                return name
    return None


def _source(address: str) -> str | None:
    """The address of this host that packets to `address` would have; `address` itself where it is this host's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # of a datagram socket: a look at the routes
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _interface(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                said = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(said[20:24]) == address:
                return name
    return None
