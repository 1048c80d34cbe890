"""How many threads numerical libraries get: what the user says, else the rank's share of the cores."""

import os

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mig_selector.ranks.group import all_threads
from mig_selector.ranks.world import Ranks


CORES = len(os.sched_getaffinity(0))


def threads_of(ranks):
    """What OpenMP and BLAS libraries get, where they had three threads before."""
    with threadpool_limits(3):
        with all_threads(ranks):
            found = {library["num_threads"] for library in threadpool_info()}
        assert {library["num_threads"] for library in threadpool_info()} == {3}
    return found


@pytest.fixture(autouse=True)
def launched_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(("ranks_of_node", "threads"), [(1, CORES), (2, max(CORES // 2, 1)), (CORES + 1, 1)])
def test_the_cores_of_a_node_are_shared_among_its_ranks(ranks_of_node, threads):
    assert threads_of(Ranks(local_world_size=ranks_of_node)) == {threads}


@pytest.mark.parametrize(("value", "threads"), [("1", 1), ("5", 5), (" 4,2", 4)])
def test_a_number_that_the_user_set_is_obeyed(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_of(Ranks()) == {threads}


def test_it_is_obeyed_on_each_of_several_ranks(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of(Ranks(local_world_size=2)) == threads_of(Ranks()) == {5}


def test_the_single_thread_that_torchrun_allows_each_of_several_ranks_is_not_the_users(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_of(Ranks(local_world_size=2)) == {max(CORES // 2, 1)}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads_of(Ranks()) == {CORES}  # what rank 0 does alone
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert threads_of(Ranks()) == {1}


@pytest.mark.parametrize("value", ["", "0", "-2", "many", "²", ",3"])
def test_a_value_that_is_not_a_number_of_threads_is_ignored(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_of(Ranks()) == {CORES}
