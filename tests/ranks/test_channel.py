"""What crosses the channel, and what does not."""

from __future__ import annotations

import ast
import json
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import genqual.ranks
from genqual.ranks import protocol
from genqual.ranks.protocol import ChannelError, Listener, Message, connect, receive, send

SCALARS = st.sampled_from(["?", "i1", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", ">f4", "<f8"]).map(np.dtype)
ARRAYS = npst.arrays(SCALARS, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def both_ways(message: Message) -> Message:
    ours, theirs = Pipe()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(theirs, message))  # a large body blocks until it is read
        sender.start()
        try:
            return receive(ours)
        finally:
            sender.join()


@settings(deadline=None)  # the host is shared, and nothing here is about speed
@given(fields=st.dictionaries(st.text(), JSON, max_size=4), arrays=st.dictionaries(st.text(), ARRAYS, max_size=4))
def test_fields_and_arrays_arrive_as_they_left(fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    got = both_ways(Message(fields, arrays))
    assert got.fields == fields
    assert got.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got.arrays[name].shape == array.shape
        assert got.arrays[name].dtype == array.dtype.newbyteorder("<")
        # Values by text, not by our own byte order handling; NaN equals NaN there too.
        assert repr(got.arrays[name].tolist()) == repr(array.tolist())
        assert got.arrays[name].flags.writeable


def test_a_body_larger_than_any_buffer_and_not_contiguous() -> None:
    array = np.arange(3_000_000, dtype=np.float64).reshape(1500, 2000).T[::3]
    assert np.array_equal(both_ways(Message({}, {"a": array})).arrays["a"], array)


@pytest.mark.parametrize("dtype", ["O", "U3", "S3", "c16", "M8[s]", "V4", "i4,f4", np.longdouble])
def test_other_dtypes_are_refused_on_both_sides(dtype: Any) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        with pytest.raises(ChannelError, match="cross the channel"):
            send(ours, Message({}, {"a": np.zeros(2, dtype=dtype)}))
        assert not theirs.poll(0), "nothing may have left"
        head = {"name": "a", "dtype": np.dtype(dtype).str, "shape": [2]}
        ours.send_bytes(json.dumps({"fields": {}, "arrays": [head]}).encode())
        with pytest.raises(ChannelError):
            receive(theirs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes"])
def test_fields_that_are_not_json_are_refused(value: Any) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        with pytest.raises(ChannelError, match="not plain JSON"):
            send(ours, Message({"value": value}, {"a": np.zeros(2)}))
        assert not theirs.poll(0), "nothing may have left"


@pytest.mark.parametrize("header", [b"", b"\x80\x04N.", b"[]", b"{}", b'{"fields": {}, "arrays": [{"name": "a"}]}'])
def test_nonsense_is_told_from_a_message(header: bytes) -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        ours.send_bytes(header)
        with pytest.raises(ChannelError, match="no message of"):
            receive(theirs)


def test_a_short_body_is_told() -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        head = {"name": "a", "dtype": "<f8", "shape": [2]}
        ours.send_bytes(json.dumps({"fields": {}, "arrays": [head]}).encode())
        ours.send_bytes(bytes(8))
        with pytest.raises(ChannelError, match="8 bytes of array 'a' where 16"):
            receive(theirs)


def call_in_background(door: Listener, key: bytes, got: list[object]) -> threading.Thread:
    def call() -> None:
        try:
            got.append(connect(*door.address, key))
        except (AuthenticationError, EOFError, OSError) as error:
            got.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_the_key_opens_and_a_wrong_key_does_not() -> None:
    door = Listener()
    try:
        got: list[object] = []
        caller = call_in_background(door, b"wrong" * 6, got)
        assert door.accept(5) is None
        caller.join(5)
        assert isinstance(got.pop(), AuthenticationError)
        assert door.refused == 1
        caller = call_in_background(door, door.key, got)
        connection = door.accept(5)
        caller.join(5)
        peer = got.pop()
        assert isinstance(connection, Connection)
        assert isinstance(peer, Connection)
        send(peer, Message({"hello": 1}))
        assert receive(connection).fields == {"hello": 1}
        connection.close()
        peer.close()
    finally:
        door.close()


def test_a_caller_that_says_nothing_does_not_block_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_S", 0.2)
    door = Listener()
    try:
        with socket.create_connection(door.address):
            assert door.accept(5) is None
        assert door.refused == 1
    finally:
        door.close()


def test_a_peer_that_stops_in_the_middle_of_a_message_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_S", 0.2)
    door = Listener()
    try:
        got: list[object] = []
        caller = call_in_background(door, door.key, got)
        connection = door.accept(5)
        caller.join(5)
        peer = got.pop()
        assert isinstance(connection, Connection)
        assert isinstance(peer, Connection)
        with connection, peer:
            head = {"name": "a", "dtype": "<f8", "shape": [2]}
            peer.send_bytes(json.dumps({"fields": {}, "arrays": [head]}).encode())
            with pytest.raises(OSError, match="temporarily unavailable"):
                receive(connection)
            with pytest.raises(OSError, match="temporarily unavailable"):  # nobody reads 64 MiB at the other end
                send(connection, Message({}, {"a": np.zeros(8 << 20)}))
    finally:
        door.close()


def test_nothing_in_this_room_pickles() -> None:
    for file in Path(genqual.ranks.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "cloudpickle", "dill"}, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("send", "recv", "loads" if "json" not in ast.dump(node.func) else ""), (
                    f"{file}:{node.lineno}: Connection.send and recv pickle"
                )
