"""Where ranks go: properties on drawn hosts, and the cases a person would try."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genqual.devices.placement import assign, divide
from genqual.devices.topology import Thread
from genqual.devices.xeon import Xeon
from genqual.errors import BadInput

from .trees import Host

# Hosts that run these tests are shared, so time says nothing about the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hosts = st.builds(
    Host,
    sockets=st.integers(1, 2),
    nodes_per_socket=st.integers(1, 2),
    cores_per_node=st.integers(1, 5),
    smt=st.integers(1, 2),
    interleaved=st.booleans(),
)


def threads_of(host: Host) -> list[Thread]:
    return [
        Thread(cpu, host.siblings(cpu)[0], host.node(cpu), host.socket(cpu), tuple(host.siblings(cpu)))
        for cpu in host.cpus
    ]


@st.composite
def situations(draw: st.DrawFn) -> tuple[Host, list[Thread], int, int, set[int]]:
    """A host, the threads that may be used, ranks and CPUs for each, and CPUs that another group holds."""
    host = draw(hosts)
    allowed = draw(st.sets(st.sampled_from(host.cpus), min_size=1))
    usable = [thread for thread in threads_of(host) if thread.cpu in allowed]
    per_rank = draw(st.integers(1, len(usable)))
    ranks = draw(st.integers(1, len(usable) // per_rank))
    return host, usable, ranks, per_rank, draw(st.sets(st.sampled_from(host.cpus)))


@patient
@given(situations())
def test_ranks_get_their_number_of_cpus_none_twice_and_none_that_is_not_theirs(
    drawn: tuple[Host, list[Thread], int, int, set[int]],
) -> None:
    _, usable, ranks, per_rank, busy = drawn
    cores = assign(usable, ranks, per_rank, busy)
    assert [len(rank) for rank in cores] == [per_rank] * ranks
    flat = [cpu for rank in cores for cpu in rank]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= {thread.cpu for thread in usable}


@patient
@given(situations())
def test_cores_of_another_group_are_used_only_when_the_others_do_not_suffice(
    drawn: tuple[Host, list[Thread], int, int, set[int]],
) -> None:
    host, usable, ranks, per_rank, busy = drawn
    quiet = {thread.cpu for thread in usable if busy.isdisjoint(host.siblings(thread.cpu))}
    flat = {cpu for rank in assign(usable, ranks, per_rank, busy) for cpu in rank}
    if len(quiet) >= ranks * per_rank:
        assert flat <= quiet


@patient
@given(situations())
def test_two_ranks_share_a_core_only_when_cores_run_out(
    drawn: tuple[Host, list[Thread], int, int, set[int]],
) -> None:
    host, usable, ranks, per_rank, _ = drawn
    if len({thread.core for thread in usable}) >= ranks * per_rank:
        cores = [host.siblings(cpu)[0] for rank in assign(usable, ranks, per_rank) for cpu in rank]
        assert len(set(cores)) == len(cores)


@patient
@given(situations())
def test_no_rank_crosses_nodes_where_that_can_be_avoided(
    drawn: tuple[Host, list[Thread], int, int, set[int]],
) -> None:
    host, usable, ranks, per_rank, _ = drawn
    cores = {thread.core: thread.node for thread in usable}
    # Sharing a core costs more than crossing, so hyperthreads are room only where cores do not suffice.
    room = Counter(cores.values() if len(cores) >= ranks * per_rank else [thread.node for thread in usable])
    inside = sum(size // per_rank for size in room.values())
    crossing = [rank for rank in assign(usable, ranks, per_rank) if len({host.node(cpu) for cpu in rank}) > 1]
    assert len(crossing) == max(0, ranks - inside)


@patient
@given(situations(), st.integers(1, 40))
def test_dividing_never_asks_for_more_than_there_is_and_wastes_no_rank(
    drawn: tuple[Host, list[Thread], int, int, set[int]], ranks: int
) -> None:
    _, usable, _, _, _ = drawn
    share = divide(usable, ranks)
    assert ranks * share <= len(usable)
    assert (share == 0) == (ranks > len(usable))
    if len({thread.core for thread in usable}) >= ranks > 0:
        assert share >= 1


@settings(patient, max_examples=25)
@given(host=hosts, ranks=st.integers(1, 12), share=st.integers(0, 6), data=st.data())
def test_a_placement_is_bound_leased_and_disjoint_or_refused(
    host: Host, ranks: int, share: int, data: st.DataObject
) -> None:
    allowed = data.draw(st.sets(st.sampled_from(host.cpus), min_size=1))
    taken = frozenset(f"cpu:{cpu}" for cpu in data.draw(st.sets(st.sampled_from(host.cpus))))
    with tempfile.TemporaryDirectory() as directory:
        xeon = Xeon(host.write(Path(directory), allowed))
        assert xeon.probe().count == len(allowed)
        if ranks * max(share, 1) > len(allowed):
            with pytest.raises(BadInput, match=f"--ranks {ranks}.*this host has {len(allowed)} xeon"):
                xeon.place(ranks, share, taken=taken)
            return
        placed = xeon.place(ranks, share, taken=taken)
    flat = [cpu for rank in placed.cores for cpu in rank]
    assert len(placed.cores) == len(placed.env) == ranks
    assert len(set(flat)) == len(flat)
    assert set(flat) <= allowed
    assert placed.threads == len(placed.cores[0])
    for rank, env in zip(placed.cores, placed.env, strict=True):
        assert env == {"OMP_NUM_THREADS": str(len(rank)), "MKL_NUM_THREADS": str(len(rank))}
    # What is held is every thread of every core that is used: a hyperthread's neighbour disturbs as well.
    assert set(placed.lease) == {f"cpu:{other}" for cpu in flat for other in host.siblings(cpu)}


# 16 cores on 4 nodes of 2 sockets: cores 0-15, their hyperthreads 16-31.
BIG = Host(sockets=2, nodes_per_socket=2, cores_per_node=4, smt=2)


@pytest.mark.parametrize(
    ("ranks", "share", "cores"),
    [
        (1, 4, [range(4)]),
        (2, 2, [range(2), range(2, 4)]),
        (3, 3, [range(3), range(4, 7), range(8, 11)]),  # not core 3 with 4 and 5, which are on another node
        (2, 8, [range(8), range(8, 16)]),  # wider than a node: one socket each
        (2, 6, [range(6), range(8, 14)]),
        (1, 16, [range(16)]),
        (1, 0, [range(16)]),
        (2, 0, [range(8), range(8, 16)]),
        (4, 0, [range(4), range(4, 8), range(8, 12), range(12, 16)]),
        (8, 0, [range(2 * rank, 2 * rank + 2) for rank in range(8)]),
        (5, 0, [range(2), range(2, 4), range(4, 6), range(6, 8), range(8, 10)]),  # 3 each would cross nodes
    ],
)
def test_ranks_on_two_sockets_with_four_nodes(root: Path, ranks: int, share: int, cores: list[range]) -> None:
    assert Xeon(BIG.write(root)).place(ranks, share).cores == tuple(tuple(each) for each in cores)


def test_hyperthreads_come_after_all_cores(root: Path) -> None:
    xeon = Xeon(BIG.write(root))
    assert {cpu for rank in xeon.place(16, 1).cores for cpu in rank} == set(range(16))
    assert {cpu for rank in xeon.place(32, 1).cores for cpu in rank} == set(range(32))
    assert xeon.place(32, 0).env[0]["OMP_NUM_THREADS"] == "1"


def test_groups_that_run_side_by_side_share_no_core_and_prefer_a_quiet_node(root: Path) -> None:
    xeon = Xeon(BIG.write(root))
    taken: frozenset[str] = frozenset()
    nodes = []
    for _ in range(4):
        placed = xeon.place(1, 2, taken=taken)
        assert taken.isdisjoint(placed.lease)
        taken |= set(placed.lease)
        nodes.append({BIG.node(cpu) for cpu in placed.cores[0]})
    assert nodes == [{0}, {1}, {2}, {3}]


def test_neighbouring_cores_are_taken_where_there_are_any(root: Path) -> None:
    xeon = Xeon(Host(cores_per_node=6).write(root))
    assert xeon.place(1, 2, taken=frozenset({"cpu:1"})).cores == ((2, 3),)
    assert xeon.place(1, 2, taken=frozenset({"cpu:1", "cpu:3", "cpu:5"})).cores == ((0, 2),)


def test_interleaved_numbering_still_keeps_a_rank_on_its_node(root: Path) -> None:
    host = Host(sockets=2, cores_per_node=4, interleaved=True)
    assert Xeon(host.write(root)).place(2, 4).cores == ((0, 2, 4, 6), (1, 3, 5, 7))


@pytest.mark.parametrize(("ranks", "share"), [(0, 1), (-1, 1), (1, -1)])
def test_nonsense_is_refused_and_quoted(root: Path, ranks: int, share: int) -> None:
    with pytest.raises(BadInput, match=f"--ranks {ranks} of {share} cores"):
        Xeon(BIG.write(root)).place(ranks, share)


def test_too_many_cores_for_each_rank_are_refused_with_both_numbers(root: Path) -> None:
    with pytest.raises(BadInput, match=r"--ranks 2 of 2 cores each: this host has 2 xeon cores; .*at most 1 ranks"):
        Xeon(Host(cores_per_node=2).write(root)).place(2, 2)
