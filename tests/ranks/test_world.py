"""What ranks leave in the store they share, and what they say if it is lost; test_ranks.py has whole processes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from mig_selector.errors import RemoteError
from mig_selector.ranks.signals import StopSignals
from mig_selector.ranks.watch import Watch
from mig_selector.ranks.world import Ranks, _shared_failures, connect


def test_a_transfer_leaves_nothing_in_the_store():
    store = HashStore()
    ranks = [Ranks(rank, 3, rank, 3, _store=store) for rank in range(3)]
    chunks = [bytes([number]) * 10 for number in range(20)]  # more than are sent ahead of the receivers

    def take_part(each):
        return list(each.transfer(lambda: chunks, [1, 2]))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(take_part, ranks)) == [[], chunks, chunks]
    assert store.num_keys() == 0


@pytest.mark.parametrize(
    ("address", "port"), [(None, "29500"), ("127.0.0.1", None), ("127.0.0.1", "abc"), ("127.0.0.1", "-1")]
)
def test_an_address_that_is_missing_or_is_not_one_is_named(monkeypatch, address, port):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": address, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    with pytest.raises(RemoteError, match=r"cannot reach each other at .*; check MASTER_ADDR and"):  # noqa: SIM117
        with connect():
            pytest.fail("the block must not run")


def test_a_store_that_is_lost_before_this_rank_has_announced_itself_is_named_as_such():
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5))
    client = TCPStore("127.0.0.1", store.port, None, False, timedelta(seconds=5))
    del store
    with StopSignals() as signals:
        watch = Watch(client, 1, 2, signals.stop_main_thread)
        ranks = Ranks(1, 2, _store=client, _watch=watch)
        with pytest.raises(RemoteError, match="the connection between the ranks was lost"):  # noqa: SIM117
            with _shared_failures(ranks, watch, signals):
                pytest.fail("the block must not run")
