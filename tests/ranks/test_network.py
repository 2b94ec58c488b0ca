"""The interface that faces other hosts, and connections whose peer's kernel says nothing any more."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from multiprocessing.connection import Connection

import pytest

from genqual.ranks import network
from genqual.ranks.connections import Links
from genqual.ranks.diagnosis import Sighting
from genqual.ranks.protocol import SILENT_S, Listener, connect


def test_an_interface_is_found_by_its_address_and_this_host_is_none_of_the_others() -> None:
    assert network.facing(["127.0.0.1"]) is None, "this host itself"
    assert network.facing(["no-such-host.invalid"]) is None
    assert network.facing([]) is None
    assert network.facing(["127.0.0.2"]) == "lo", "of the loopback's other addresses the first is the source"


def test_both_ends_notice_a_peer_that_is_unreachable_a_rank_later_than_pytest() -> None:
    door = Listener()
    made: list[Connection] = []
    thread = threading.Thread(target=lambda: made.append(connect(*door.address, door.key)))
    thread.start()
    ours = door.accept(10.0)
    thread.join()
    door.close()
    assert ours is not None
    with ours, made[0] as theirs:
        assert longest_s(ours) == SILENT_S
        assert SILENT_S < longest_s(theirs) <= 2 * SILENT_S
        with socket.socket(fileno=os.dup(ours.fileno())) as handle:
            assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * SILENT_S


def longest_s(connection: Connection) -> int:
    """Until the kernel gives an idle connection up."""
    with socket.socket(fileno=os.dup(connection.fileno())) as handle:
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, every, count = (
            handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
            for name in ("IDLE", "INTVL", "CNT")
        )
    return idle + every * count


@pytest.mark.parametrize(
    ("error", "unreachable"),
    [
        (TimeoutError(errno.ETIMEDOUT, "timed out"), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
        (BrokenPipeError(errno.EPIPE, "pipe"), False),
        (EOFError(), False),
    ],
    ids=["silent", "no route", "reset", "pipe", "end of file"],
)
def test_a_rank_that_ended_is_told_from_one_that_cannot_be_reached(error: OSError, *, unreachable: bool) -> None:
    links, seen = Links(2), Sighting("a-case", "generate", 2, time.time(), 30.0)
    links.hosts[1] = "b"
    links._fell(1, error, seen)
    assert (1 in seen.unreachable) == unreachable
    assert (1 in seen.gone) != unreachable
    assert seen.fallen == {1}
