"""The example that annotates with Ray Data: what it writes is a sidecar of the pool."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import LABELS, ROOT, make_raw_rows, run_command

from mig_selector import run_selection


pytestmark = pytest.mark.slow


def test_what_ray_writes_is_read_as_a_sidecar(workplace, word_encoder, tmp_path):
    rows = make_raw_rows(60)
    workplace.add("pool", [*rows, rows[0]], formatting="alpaca")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    words = ["--model", word_encoder, "--labels", tmp_path / "labels.txt"]
    pool = workplace.data / "pool.jsonl"
    done = run_command("python", ROOT / "scripts/ray_annotate.py", pool, tmp_path / "sidecars", *words)
    assert done.returncode == 0, done.stderr
    sidecars = sorted((tmp_path / "sidecars").glob("*.parquet"))
    assert sum(len(pq.read_table(file)) for file in sidecars) == 61

    settings = workplace.settings(mig_sidecar=str(tmp_path / "sidecars"), mig_max_failed=0.2, mig_num_samples=20)
    [outcome] = run_selection(settings)
    manifest = json.loads((Path(outcome.folder) / "manifest.json").read_text())
    assert manifest["annotation"]["found_in_sidecar"] == manifest["annotation"]["rows"] == 61
    labels = pq.read_table(Path(outcome.folder) / "selection.parquet")["labels"].to_pylist()
    assert all(0 < len(names) <= 3 and set(names) <= set(LABELS) for names in labels)
