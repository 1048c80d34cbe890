"""`mig-selector study`: a whole study on a tiny model, cut off and continued."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from support import LABELS, ROOT, make_row
from training import host_settings, write_yaml

from mig_selector.cli import main
from mig_selector.errors import HostError
from mig_selector.store.files import in_use
from mig_selector.study.run import run_study
from mig_selector.study.setup import Options


SOURCES = ("alpaca", "flan")
NUDGE = shlex.join([sys.executable, str(ROOT / "tests" / "programs" / "nudge_model.py")])


def make_pool(count):
    """Rows of two sources, with answers of 3 to 19 words."""
    rng = np.random.default_rng(5)
    words = [*LABELS, "how", "what", "why", "list"]
    rows = []
    for number in range(count):
        labels = [LABELS[index] for index in rng.choice(len(LABELS), 2, replace=False)]
        row = make_row(number, labels, round(float(rng.uniform(1, 6)), 3), source=[SOURCES[number % 2]])
        row["dialogs"][1]["content"] = " ".join(rng.choice(words, int(rng.integers(3, 20)))) + f" {number}"
        rows.append(row)
    return rows


@pytest.fixture
def place(workplace, tiny_llama, tmp_path):
    """A workplace with settings for a study of 120 rows."""
    workplace.rows = make_pool(120)
    workplace.add("pool", workplace.rows)
    workplace.keys = {
        **host_settings(tiny_llama, tmp_path / "never used"),
        **workplace.settings(mig_num_samples=12, mig_edge_threshold=0.5),
        "save_strategy": "no",
        "use_cpu": True,
    }
    return workplace


def study(place, *, only=(), trains=True, settings=None, **options):
    given = {"methods": ["mig"], "seeds": 1, "holdout": 0.2, "train_command": NUDGE, **options}
    return run_study({**place.keys, **(settings or {})}, Options(**given), only=only, trains=trains)


def own_loss(model, ids, labels):
    """The loss of one row, by transformers' own model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss)


@pytest.mark.slow
@pytest.mark.llamafactory
@pytest.mark.parametrize(
    ("key", "score"), [("mig_score", "annotation.deita.quality_scores"), ("mig_scorer", "constant")]
)
def test_the_longest_answers_are_chosen_by_their_length_whatever_the_score_of_the_others(place, key, score):
    with pytest.raises(HostError, match="training of longest-seed0 failed"):
        study(
            place,
            methods=["longest", "top_score"],
            only=["longest"],
            train_command="false",
            settings={key: score},
            match="rows",
        )
    manifests = [json.loads(file.read_text()) for file in place.folder.rglob("pool_*/manifest.json")]
    scores = {manifest["method"]: manifest["settings"]["mig_score"] for manifest in manifests}
    assert scores["longest"] == "response_tokens"
    assert scores["top_score"] == score


@pytest.mark.slow
@pytest.mark.llamafactory
def test_a_study_trains_measures_goes_on_where_it_was_cut_off_and_judges(place, tmp_path, capsys):
    # One arm is trained by LLaMA-Factory itself; a stand-in saves the time of the others.
    started = study(place, only=["mig", "base"], train_command="llamafactory-cli train")
    assert started.table.startswith("6 of 8 runs are missing: random-seed0, stratified-seed0, random-seed1")
    folder = Path(started.folder)
    plan = json.loads((folder / "study.json").read_text())
    assert plan["figures"] is None
    by_llamafactory = folder / "runs" / "mig-seed0"
    trained = yaml.safe_load((by_llamafactory / "train.yaml").read_text())
    assert not any(key.startswith("mig_") or key.startswith("eval") for key in trained)
    manifest = json.loads((by_llamafactory / "manifest.json").read_text())
    assert manifest["steps"] == manifest["planned_steps"] == trained["max_steps"] == 2
    assert manifest["passes"] == pytest.approx(manifest["planned_passes"], rel=0.1)

    (folder / "runs" / "fail_after").write_text("2")
    with pytest.raises(HostError, match=r"training of random-seed1 failed with exit code 1.*\n.*no time left"):
        study(place)
    assert not (folder / "runs" / "random-seed1").exists()
    done = {file: file.stat().st_mtime_ns for file in (folder / "runs").glob("*/manifest.json")}
    assert {file.parent.name for file in done} == {"base", "mig-seed0", "random-seed0", "stratified-seed0"}
    part = study(place, trains=False)
    assert "4 of 8 runs are missing" in part.table
    (folder / "runs" / "fail_after").unlink()
    (folder / "runs" / ".random-seed1.unfinished" / "training").mkdir(exist_ok=True)

    finished = study(place)
    assert finished.folder == started.folder
    assert {file: file.stat().st_mtime_ns for file in done} == done
    known = json.loads((folder / "study.json").read_text())
    assert {key: known[key] for key in ("fingerprint", "fixed_at", "plan")} == {
        key: plan[key] for key in ("fingerprint", "fixed_at", "plan")
    }
    arms = {each["arm"]: each for each in known["figures"]["arms"]}
    assert list(arms) == ["base", "random", "stratified", "mig"]
    assert [arms[arm]["verdict"] for arm in ("base", "random")] == [None, None]
    for arm in ("stratified", "mig"):
        effect = arms[arm]["effect"]
        expected = "better" if effect["high"] < 0 else "worse" if effect["low"] > 0 else "no difference seen"
        assert arms[arm]["verdict"] == expected
        assert arms[arm]["effect"]["difference"] == pytest.approx(
            np.mean(arms[arm]["losses"]) - np.mean(arms["random"]["losses"])
        )
    assert {file.name for file in folder.iterdir() if not file.name.startswith(".")} == {
        *("dataset_info.json", "runs", "study.json", "study.csv", "study.png", "study.html"),
    }
    entries = json.loads((folder / "dataset_info.json").read_text())
    assert sorted(re.sub(r"_\d+(_tokens)?$", "", name) for name in entries) == [
        *("pool_compared_mig", *(f"pool_compared_random{draw}" for draw in range(5)), "pool_compared_stratified0")
    ]
    page = (folder / "study.html").read_text()
    assert "mig</bdi>: <strong>" in page
    assert "favours random by construction" in page

    # No arm sees a held-out row, all arms have the same budget, and the loss of a row is that of transformers.
    subsets = [part["folder"] for made in plan["plan"]["arms"].values() for part in made]
    seen = {row for part in subsets for row in pq.read_table(f"{part}/selection.parquet")["row_index"].to_pylist()}
    allowed = set(pq.read_table(f"{arms_folder(plan, 'mig')}/candidates.parquet")["row_index"].to_pylist())
    assert seen <= allowed
    assert (len(allowed), plan["plan"]["held_out"]["answers"]) == (96, 24)
    assert plan["plan"]["held_out"]["rows"] == [row for row in range(120) if row not in allowed]
    assert plan["plan"]["held_out"]["sources"] == {"alpaca": 12, "flan": 12}
    budget = int(plan["plan"]["budget"].split()[0].replace(",", ""))
    tokens = [part["supervised_tokens"] for made in plan["plan"]["arms"].values() for part in made]
    assert all(budget - 25 < count <= budget for count in tokens)
    assert {part["steps"] for made in plan["plan"]["arms"].values() for part in made} == {2}
    ids, labels = tokenized_as_llamafactory_does(place, plan["plan"]["held_out"]["rows"][3])
    loss = np.load(by_llamafactory / "losses.npy")[3]
    assert loss == pytest.approx(own_loss(by_llamafactory / "model", ids, labels), abs=1e-5)

    assert main(["list", "--dataset-dir", str(place.data)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("study-")]
    assert line.split()[1] == "-"
    assert "random, stratified, mig" in line

    yaml_file = write_yaml(tmp_path, place.keys)
    words = ["study", str(yaml_file), "--methods", "mig", "--seeds", "1", "--holdout", "0.2"]
    assert main([*words, "--report"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    before = sorted(place.folder.rglob("*"))
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"random 5, stratified 1, mig 1: 7 trainings, 7 of them finished in {folder}\n" in said
    assert "held out: 24 answers from 2 sources, " in said
    assert " supervised tokens, 2 steps, " in said
    rows = np.mean([part["rows"] for part in plan["plan"]["arms"]["random"]])
    [estimated] = re.findall("each training, as for random rows: about (\\d+) rows with", said)
    assert int(estimated) == pytest.approx(rows, abs=1.5)
    assert main([*words, "--dry-run", "--methods", "mig,top_score", "--seeds", "2"]) == 0
    said = capsys.readouterr().out
    assert f"random 5, stratified 2, mig 2, top_score 2: 11 trainings, 7 of them finished in {folder}\n" in said
    assert sorted(place.folder.rglob("*")) == before

    # A study grows: one method more trains nothing again.
    manifests = {file: file.stat().st_mtime_ns for file in (folder / "runs").glob("*/manifest.json")}
    more = [*words, "--methods", "mig,top_score"]
    interrupting = shlex.join(["sh", "-c", "sleep 2; kill -INT $PPID; exec sleep 9", "sh"])
    assert main([*more, "--train-command", interrupting]) == 130
    said = capsys.readouterr().err
    assert "run 1 of 1: top_score-seed0" in said
    assert said.endswith("mig-selector: interrupted; the same command continues from here\n")
    grown = study(place, methods=["mig", "top_score"])
    assert grown.folder == started.folder
    assert {file: file.stat().st_mtime_ns for file in manifests} == manifests
    record = json.loads((folder / "study.json").read_text())
    assert {key: record[key] for key in ("fingerprint", "fixed_at")} == {
        key: plan[key] for key in ("fingerprint", "fixed_at")
    }
    assert [each["runs"] for each in record["added"]] == [["top_score-seed0"]]
    assert record["plan"]["error_rate_of_each_interval"] == pytest.approx(0.05 / 3)
    assert {each["arm"]: each["runs"] for each in record["figures"]["arms"]}["top_score"] == 1
    page = (folder / "study.html").read_text()
    assert "mig-selector study --stage sft" in page
    assert "--methods mig,top_score --seeds 1" in page

    # While it runs, prune leaves it and its subsets alone, and other commands say what it is.
    subset = arms_folder(record, "mig")
    where = ["--dataset-dir", str(place.data)]
    with in_use(folder):
        for dry in ([], ["--dry-run"]):
            assert main(["prune", str(folder), subset, "--registered", *where, *dry]) == 1
            said = capsys.readouterr().out
            assert f"kept {folder}: another process holds its lock" in said
            assert f"kept {subset}: the study in {folder} runs" in said
    assert main(["verify", str(folder)]) == 1
    assert f"{folder} is not a finished selection: it is a study. Its page is " in capsys.readouterr().err
    assert main(["prune", str(folder), subset, *where, "--dry-run"]) == 0


def arms_folder(plan, arm):
    return plan["plan"]["arms"][arm][0]["folder"]


def tokenized_as_llamafactory_does(place, row):
    """Token ids and labels of a row, with the template written out by hand."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.keys["model_name_or_path"])
    question, answer = (turn["content"] for turn in place.rows[row]["dialogs"])
    head = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    prompt = tokenizer.encode(tokenizer.bos_token + head.format(question), add_special_tokens=False)
    reply = tokenizer.encode(answer + "<|eot_id|>", add_special_tokens=False)
    ids, labels = prompt + reply, [-100] * len(prompt) + reply
    return ids[: place.keys["cutoff_len"]], labels[: place.keys["cutoff_len"]]
