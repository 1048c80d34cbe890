from pathlib import Path

from mig_selector.ranks import memory


def test_the_peak_is_that_of_the_block_alone():
    size = 120 << 20
    before = bytearray(size)
    del before
    with memory.measured_peak() as small:
        pass
    with memory.measured_peak() as large:
        held = bytearray(size)
        del held
    assert small.num_bytes < large.num_bytes
    assert 0.95 * size < large.num_bytes - small.num_bytes < 1.3 * size


def test_the_peak_is_none_where_the_system_cannot_measure_it(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "Path", lambda path: Path(tmp_path / "nowhere" / path.strip("/")))
    with memory.measured_peak() as peak:
        pass
    assert peak.num_bytes is None
