"""Messages between pytest and a rank: JSON, then raw arrays, over authenticated sockets. No pickle, no torch."""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge, wait
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json

PROTOCOL: Final = 1
STALL_S: Final = 5.0  # a peer silent for so long in the middle of a message is lost
SILENT_S: Final = 12
"""Seconds after which a peer whose kernel acknowledges nothing is unreachable: the link is cut, or the host is down.

A kernel answers for a process that computes, hangs or is stopped, so this is no limit for a rank. A rank waits twice as
long for pytest: a launcher's daemon that is to end with its ranks must not have their deaths to tell, since what it
sent and nobody acknowledged would keep its connection open for a quarter of an hour.
"""
MAX_HEADER: Final = 64 << 20
_KINDS: Final = "biuf"  # bool, int, unsigned, float; an object array would need pickle

Arrays = Mapping[str, NDArray[Any]]


class ChannelError(Exception):
    """What came is not a message of this protocol, or what should go cannot be one."""


@dataclass(frozen=True, slots=True)
class Message:
    """`fields` travel as JSON (no NaN, no infinity), `arrays` as their raw little-endian bytes."""

    fields: dict[str, Json]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def _wire_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise ChannelError(f"dtype {dtype}: only bool, integers and floats of up to 64 bits cross the channel")
    return dtype.newbyteorder("<")


def send(connection: Connection, message: Message) -> None:
    """Send one message. Raises ChannelError on an object array or a NaN field, OSError when the peer is gone."""
    bodies = {
        name: np.ascontiguousarray(array, dtype=_wire_dtype(array.dtype)).reshape(array.shape)
        for name, array in message.arrays.items()
    }
    heads = [{"name": name, "dtype": body.dtype.str, "shape": list(body.shape)} for name, body in bodies.items()]
    try:
        header = json.dumps({"fields": message.fields, "arrays": heads}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ChannelError(f"fields are not plain JSON: {error}") from error
    if len(header) > MAX_HEADER:
        raise ChannelError(f"header of {len(header)} bytes: at most {MAX_HEADER}; send bulk as arrays")
    connection.send_bytes(header)
    for body in bodies.values():
        if body.size:
            connection.send_bytes(body.reshape(-1).view(np.uint8).data)


def receive(connection: Connection) -> Message:
    """Read one message. Raises EOFError or OSError when the peer is gone or stalls, ChannelError on nonsense."""
    try:
        header = json.loads(connection.recv_bytes(MAX_HEADER))
        fields, heads = header["fields"], header["arrays"]
        empties = {
            str(head["name"]): np.empty([int(n) for n in head["shape"]], dtype=_wire_dtype(np.dtype(head["dtype"])))
            for head in heads
        }
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise ChannelError(f"no message of genqual's protocol {PROTOCOL}: {error!r}") from error
    for name, array in empties.items():
        if array.size:
            body = array.reshape(-1).view(np.uint8).data
            if (got := connection.recv_bytes_into(body)) != body.nbytes:
                raise ChannelError(f"{got} bytes of array {name!r} where {body.nbytes} were announced")
    return Message(fields, empties)


class Listener:
    """Listens on one free port and lets in only who knows the key.

    Not `multiprocessing.connection.Listener`: its accept waits without limit for a caller that says nothing.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.key = secrets.token_bytes(32)
        self._socket = socket.create_server((host, 0), backlog=128)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.refused = 0

    def accept(self, timeout_s: float) -> Connection | None:
        """Return the next caller who proved the key, or None when none did within about `timeout_s`."""
        if not wait([self._socket], timeout_s):
            return None
        caller, _ = self._socket.accept()
        _prepare(caller, STALL_S)
        connection = Connection(caller.detach())
        try:
            deliver_challenge(connection, self.key)
            answer_challenge(connection, self.key)
        except (AuthenticationError, EOFError, OSError, ValueError, AssertionError):
            self.refused += 1
            connection.close()
            return None
        return connection

    @property
    def connected(self) -> bool:
        """Whether a caller waits to be let in."""
        return bool(wait([self._socket], 0))

    def close(self) -> None:
        """Stop listening; connections already made live on."""
        self._socket.close()


def connect(host: str, port: int, key: bytes) -> Connection:
    """Connect from a rank. Raises AuthenticationError on a wrong key, OSError when nobody listens."""
    connection: Connection = Client((host, port), authkey=key)
    _prepare(connection, None)
    return connection


def _prepare(owner: socket.socket | Connection, stall_s: float | None) -> None:
    """Notice a peer that is unreachable; with `stall_s`, pytest's side, bound each read and write in the kernel."""
    with socket.socket(fileno=os.dup(owner.fileno())) as handle:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        every = SILENT_S // 4 if stall_s is not None else SILENT_S // 2
        for name, value in (("IDLE", every), ("INTVL", every), ("CNT", 3)):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"), value)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if stall_s is not None:
            # What was sent and never acknowledged is no idle connection. Not for ranks: pytest, which reads the answers
            # of other ranks first, may leave one's unread for longer.
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)
            limit = struct.pack("ll", int(stall_s), int(stall_s % 1 * 1e6))
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
