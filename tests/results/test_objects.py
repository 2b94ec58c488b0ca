"""Objects in a directory and in a bucket: moto's S3 server over real HTTP through s3fs, and file://."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.storage.push import push
from genqual.storage.sinks.base import Query, SinkBusy, SinkFailed
from genqual.storage.sinks.objects import ObjectSink
from genqual.storage.sinks.registry import open_sink
from genqual.storage.sinks.retrying import PATIENCE
from genqual.storage.sources import load
from genqual.storage.spool import Spool
from tests.here import PYTHON
from tests.results.make import record, verdict

SESSION = [record(run="run-1", attempt=n) for n in range(1, 250)] + [verdict(run="run-1"), record(run="run-2")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server on a port of its own; its address."""
    made = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket, found by what the environment says, as a user's is."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_DEFAULT_REGION": "us-east-1",
        PATIENCE: "0.3",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/results"


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("bucket")) if request.param == "s3" else f"file://{tmp_path}/deep/store"


def objects(url: str) -> list[str]:
    import fsspec

    fs, base = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return sorted(str(path) for path in fs.find(base))


def test_the_same_records_are_read_back_identical(url: str) -> None:
    sink = open_sink(url)
    assert sink.send(SESSION) == len(SESSION)
    back = list(open_sink(url).read(Query()))
    expected = sorted(SESSION, key=lambda one: (one.created, one.id))
    assert [one.to_bytes() for one in back] == [one.to_bytes() for one in expected]
    assert back == expected


def test_one_object_a_session_named_after_its_bytes_whoever_sends_it(url: str) -> None:
    import fsspec

    open_sink(url).send(SESSION)
    first = objects(url)
    assert [path.split("/")[-2] for path in first] == ["run-1", "run-2"]
    fs, _ = fsspec.url_to_fs(url)
    for path in first:
        assert path.endswith(f"/{hashlib.sha256(fs.cat_file(path)).hexdigest()}.jsonl")
    assert open_sink(url).send([*reversed(SESSION)]) == 0  # another host, another order
    assert objects(url) == first


def test_a_push_makes_one_object_of_a_session(url: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for made in SESSION:
        spool.write(made)
    assert [(one.sent, one.new, one.failed) for one in push(spool, [url]).deliveries] == [(251, 251, None)]
    assert len(objects(url)) == 2
    assert [(one.sent, one.new) for one in push(spool, [url], again=True).deliveries] == [(251, 0)]
    assert len(load(f"{url}#run=run-1")) == 250


def test_a_record_in_two_objects_is_read_once(url: str) -> None:
    sink = open_sink(url)
    sink.send(SESSION[:2])
    sink.send(SESSION[:3])
    assert len(objects(url)) == 2
    assert len(list(sink.read(Query()))) == 3


def test_an_object_that_was_altered_is_not_read(url: str) -> None:
    import fsspec

    open_sink(url).send(SESSION[:1])
    fs, _ = fsspec.url_to_fs(url)
    (path,) = objects(url)
    fs.pipe_file(path, fs.cat_file(path).replace(b"0.02", b"0.01"))
    with pytest.raises(SinkFailed, match="is not what its name says"):
        list(open_sink(url).read(Query()))


def test_queries_choose_as_they_do_elsewhere(url: str) -> None:
    old, new = (record(run=f"run-{day}", created=f"2026-05-0{day}T00:00:00.000000Z") for day in (1, 2))
    sink = open_sink(url)
    sink.send([old, new, verdict(run="run-1")])
    assert [one.run for one in sink.read(Query(kind="measurement", newest=True))] == ["run-2"]
    assert [one.kind for one in sink.read(Query(kind="judgement"))] == ["judgement"]


def test_a_server_that_is_gone_is_a_clear_error_worth_a_retry(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SinkBusy, match=r"s3://bucket-\w+/results cannot be written: .*127\.0\.0\.1:1") as caught:
        open_sink(bucket).send(SESSION[:1])
    assert "s3cr3t" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_said_at_once(bucket: str) -> None:
    with pytest.raises(SinkFailed, match="bucket does not exist"):
        open_sink("s3://no-such-bucket/results").send(SESSION[:1])


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkFailed, match=r"cannot be written: .*Not a directory"):
        open_sink(f"file://{tmp_path}/file/store").send(SESSION[:1])


def test_an_odd_run_is_a_directory_of_its_own_below_the_store(tmp_path: Path) -> None:
    for run in ("..", "../../outside", "a b/ü"):
        open_sink(f"file://{tmp_path}/store").send([record(run=run)])
    found = [Path(path) for path in objects(f"file://{tmp_path}/store")]
    assert len(found) == 3
    assert {path.parent.parent for path in found} == {tmp_path / "store"}
    assert {one.run for one in open_sink(f"file://{tmp_path}/store").read(Query())} == {"..", "../../outside", "a b/ü"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "give a directory or a bucket"),
        ("file://", "give a directory or a bucket"),
        ("s3://key:s3cr3t@bucket/x", "credentials come from the environment"),
        ("s3://bucket/x?token=s3cr3t", "give a directory or a bucket"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_secret(url: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        open_sink(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "module", "command"),
    [
        ("s3://bucket", "s3fs", "s3fs>="),
        ("s3://bucket", "fsspec", "s3fs>="),
        ("gs://bucket", "gcsfs", "pip install gcsfs"),
        ("hf://datasets/a/b", "huggingface_hub", "s3fs>="),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_command(
    url: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput) as caught:
        ObjectSink.open(url)
    assert f"needs {module}, which is not installed: {PYTHON} -m pip install" in str(caught.value)
    assert command in str(caught.value)
    assert "genqual[" not in str(caught.value), "no index has genqual"


def test_a_writer_that_is_killed_leaves_no_part_of_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills half way: no object, no temporary file, and a second try is whole."""
    store = tmp_path / "store"
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(SinkFailed, match="full"):
        open_sink(f"file://{store}").send(SESSION[:1])
    monkeypatch.setattr(os, "write", whole)
    assert not [path for path in store.rglob("*") if path.is_file()]
    assert open_sink(f"file://{store}").send(SESSION[:1]) == 1
    assert [type(one) for one in open_sink(f"file://{store}").read(Query())] == [Record]
