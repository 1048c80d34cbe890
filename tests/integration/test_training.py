"""How many processes a training would have."""

import pytest

from mig_selector.integration.training import num_processes


@pytest.mark.llamafactory
def test_the_processes_are_those_of_torchrun_and_never_none(monkeypatch):
    from llamafactory.extras.misc import get_device_count

    a_node = get_device_count() or 1  # without a device, LLaMA-Factory counts 0 processes
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    for name in ("NPROC_PER_NODE", "NNODES"):
        monkeypatch.delenv(name, raising=False)
    assert num_processes() == a_node
    monkeypatch.setenv("NNODES", "2")
    assert num_processes() == 2 * a_node
    monkeypatch.setenv("NPROC_PER_NODE", "gpu")
    assert num_processes() == 2 * a_node
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    assert num_processes() == 8
