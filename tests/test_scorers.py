"""Rows scored by models inside a selection: DEITA's two scorers and a reward model, tiny and random."""

import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from annotation.test_text_scores import TEMPLATE, encoder_of, make_llama_tokenizer, write_llama
from support import TAGS

from mig_selector.annotation.deita import PROMPTS, DeitaModel
from mig_selector.annotation.networks import load_network
from mig_selector.annotation.reward import RewardModel
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.annotate_pool import annotate_pool
from mig_selector.pipeline.dry_run import estimate
from mig_selector.pipeline.recipe import run_selection


TOO_LONG = "a text is longer than the model reads"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_llama_tokenizer()
    for seed, kind in enumerate(PROMPTS):
        write_llama(folder / kind, tokenizer, seed=seed)
    tokenizer.chat_template = TEMPLATE
    write_llama(folder / "reward", tokenizer, kind="LlamaForSequenceClassification", num_labels=1)
    return folder


def make_conversations():
    """Rows of one to three turns, one of them with a system message, one too long for every model."""
    rows = []
    for number in range(12):
        said = [("user", "assistant")[place % 2] for place in range(2 * (1 + number % 3))]
        turns = [{"role": role, "content": f"{role} {number} {place}"} for place, role in enumerate(said)]
        rows.append({"dialogs": turns})
    rows[4]["dialogs"].insert(0, {"role": "system", "content": "be brief"})
    rows[7]["dialogs"][0]["content"] = "x" * 400
    return rows


@pytest.fixture
def place(workplace, models):
    workplace.add("pool", make_conversations(), formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)

    def settings(scorer, **more):
        own = {"mig_scorer": scorer, "mig_method": "top_score", "mig_num_samples": 6, "mig_max_failed": 0.1}
        if scorer == "deita":
            own |= {f"mig_deita_{kind}_model": str(models / kind) for kind in PROMPTS}
        else:
            own |= {"mig_reward_model": str(models / "reward"), "mig_score_scale": "rank"}
        return {**workplace.settings(), "mig_embedding_dtype": "float32", **own, **more}

    workplace.with_scorer = settings
    return workplace


def compute(model, text):
    """Score, code and certainty of one text, as lists."""
    return model.compute(model.encode([text])).tolist()


def pairs_of(row):
    said = [turn["content"] for turn in row["dialogs"] if turn["role"] != "system"]
    return list(zip(said[::2], said[1::2], strict=True))


@pytest.mark.parametrize(("turns", "join"), [("sum", np.sum), ("mean", np.mean)])
def test_rows_are_scored_by_deita_turn_by_turn(place, models, turns, join, caplog):
    rows = make_conversations()
    certainties = {kind: [] for kind in PROMPTS}
    loaded = {kind: DeitaModel(encoder_of(models / kind), "key", kind, "cpu") for kind in PROMPTS}

    def one_by_one(kind, question, answer):
        [[value, _, certainty]] = compute(loaded[kind], PROMPTS[kind].format(question=question, answer=answer))
        certainties[kind].append(certainty)
        return value

    expected = [
        join([np.prod([one_by_one(kind, *pair) for kind in PROMPTS]) for pair in pairs_of(row)]) for row in rows
    ]
    with caplog.at_level(logging.INFO, logger="mig_selector"):
        [outcome] = run_selection(place.with_scorer("deita", mig_deita_turns=turns))
    assert caplog.text.count("mig_deita_complexity_model: loading ") == 1
    chosen = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()
    assert chosen["score"] == pytest.approx([expected[row] for row in chosen["row_index"]], rel=1e-5)
    assert chosen["row_index"] == np.argsort(-np.nan_to_num(expected), kind="stable")[:6].tolist()
    manifest = json.loads((Path(outcome.folder) / "manifest.json").read_text())
    assert manifest["rows"]["dropped"] == {f"not annotated: mig_deita_complexity_model: {TOO_LONG}": 1}
    num_texts = sum(map(len, map(pairs_of, rows)))
    doubtful = manifest["annotation"]["scorer"]["doubtful"]
    assert manifest["annotation"]["scorer"] == {"texts": num_texts, "doubtful": doubtful}
    assert doubtful["complexity"] == sum(certainty < 0.5 for certainty in certainties["complexity"])
    assert doubtful["complexity"] > 0
    count = f"for {doubtful['complexity']} of {num_texts} texts the model would rather write something else"
    is_most = 2 * doubtful["complexity"] > num_texts
    advice = "; it is probably not one of DEITA's scorers, and its scores mean little" if is_most else ""
    assert f"mig_deita_complexity_model: {count} than a score from 1 to 6{advice}\n" in caplog.text


def test_only_the_turns_that_are_asked_for_are_scored(place):
    first = [{"dialogs": row["dialogs"][-2 * len(pairs_of(row)) :][:2]} for row in make_conversations()]
    place.add("first", first, formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)
    found = []
    for settings in (place.with_scorer("deita", mig_turns="first"), place.with_scorer("deita", dataset="first")):
        [outcome] = run_selection(settings)
        found.append(pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()["score"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_rewards_are_kept_as_they_are_and_ranked_when_rows_are_chosen(place, models):
    rows = make_conversations()
    model = RewardModel(encoder_of(models / "reward"), "key", "cpu")
    texts = [[(turn["role"], turn["content"]) for turn in row["dialogs"]] for row in rows]
    rewards = [compute(model, turns)[0][0] for turns in texts]
    [outcome] = run_selection(place.with_scorer("reward"))
    chosen = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()
    order = sorted((row for row in range(12) if np.isfinite(rewards[row])), key=lambda row: -rewards[row])
    assert chosen["row_index"] == order[:6]
    assert chosen["score"] == pytest.approx([rank / 11 for rank in range(11, 5, -1)])

    sidecar = annotate_pool({**place.with_scorer("reward"), "mig_score_scale": None})
    kept = pq.read_table(sidecar).to_pydict()
    found = [score for score in kept["score"] if score is not None]
    assert sorted(found) == pytest.approx(sorted(filter(np.isfinite, rewards)), rel=1e-4)
    assert min(found) < 0
    assert kept["status"].count(f"mig_reward_model: {TOO_LONG}") == 1
    given = {"mig_scorer": None, "mig_sidecar": str(sidecar)}
    with pytest.raises(ArgumentError, match=r"is not a finite number of 0 or more \(see mig_score_scale\)"):
        run_selection({**place.with_scorer("reward"), **given, "mig_labels": "tags", "mig_score_scale": None})


def test_rewards_need_a_scale(place):
    with pytest.raises(
        ArgumentError, match=r"mig_scorer: reward gives scores of either sign.*set mig_score_scale: rank"
    ):
        run_selection(place.with_scorer("reward", mig_score_scale="none"))


@pytest.mark.parametrize(
    ("scorer", "keys"),
    [("deita", "mig_deita_complexity_model and mig_deita_quality_model"), ("reward", "mig_reward_model")],
)
def test_a_dry_run_tries_the_models_of_a_scorer_and_does_not_count_their_loading(place, scorer, keys, monkeypatch):
    loading = []

    def load_slowly(*arguments):
        loading.append(1000)
        return load_network(*arguments)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(loading))
    monkeypatch.setattr("mig_selector.pipeline.dry_run.time", clock)
    for module in ("deita", "reward"):
        monkeypatch.setattr(f"mig_selector.annotation.{module}.load_network", load_slowly)
    lines = estimate(place.with_scorer(scorer), selects=True)
    assert [line.partition(": ")[0] for line in lines[2:]] == [keys]
    assert (" read 12 rows: " if scorer == "deita" else " reads 12 rows: ") in lines[2]
    assert float(re.search(r"about ([\d.]+) seconds on this process alone \(tried on 12 rows\)", lines[2])[1]) < 1000
