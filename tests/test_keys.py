"""Every key is classified, and the fingerprint follows the classification."""

import json

import numpy as np
import pytest
from support import LABELS, SHAREGPT, make_rows, write_vectors

from mig_selector.arguments import all_keys, parse_arguments, split_keys
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.request import resolve
from mig_selector.reference import render_help, render_markdown
from mig_selector.selection.registry import METHODS, load_method


CHAT = {"mig_tagger_model": "@encoder", "mig_annotator_url": "http://h/v1", "mig_annotator_model": "one"}
WRITTEN = {"mig_tagger": "llm", "mig_label_embeddings": None}
"""Labels that a model writes, and vectors that a model makes of them: then tags are brought together."""
TAGGED = {"mig_tagger": "vocabulary", "mig_tagger_model": "@encoder"}
DEITA = {
    "mig_scorer": "deita",
    "mig_deita_complexity_model": "@encoder",
    "mig_deita_quality_model": "@encoder",
}
DECIDING = {
    "mig_num_samples": ({}, 11),
    "mig_num_tokens": (
        {"mig_num_samples": None, "mig_num_tokens": "1K", "model_name_or_path": "@encoder", "template": "default"},
        "2K",
    ),
    "mig_count_tokens": (
        {"mig_num_samples": None, "mig_num_tokens": "1K", "model_name_or_path": "@encoder", "template": "default"},
        "supervised",
    ),
    "mig_method": ({}, "top_score"),
    "mig_pool": ({"dataset": "pool,more"}, "pool"),
    "mig_fill": ({"mig_method": "instag", "mig_score": "deita"}, "top_score"),
    "mig_labels": ({}, "tags"),
    "mig_label_separator": ({}, ";"),
    "mig_score": ({}, "constant"),
    "mig_score_scale": ({}, "rank"),
    "mig_normalize": ({}, True),
    "mig_label_vocabulary": ({}, "@vocabulary.txt"),
    "mig_min_label_count": ({}, 3),
    "mig_embedding_model": ({"mig_label_embeddings": None, "mig_embedding_model": "@encoder"}, "@other_encoder"),
    "mig_embedding_dtype": ({"mig_label_embeddings": None, "mig_embedding_model": "@encoder"}, "float16"),
    "mig_label_embeddings": ({}, "@other.npz"),
    "mig_edge_threshold": ({}, 0.8),
    "mig_propagation_weight": ({}, 0.5),
    "mig_val_from": ({"val_size": 5}, "rest"),
    "mig_keep": ({"mig_keep": "score"}, "score,id"),
    "mig_turns": ({"mig_method": "car", "mig_row_embedding_model": "@encoder"}, "last"),
    "mig_row_embeddings": ({"mig_method": "qdit", "mig_row_embeddings": "@rows.npy"}, "@other_rows.npy"),
    "mig_row_embedding_model": (
        {"mig_method": "qdit", "mig_row_embedding_model": "@encoder"},
        "@other_encoder",
    ),
    "mig_tagger": ({"mig_tagger_model": "@encoder"}, "vocabulary"),
    "mig_scorer": ({}, "constant"),
    "mig_deita_complexity_model": (DEITA, "@other_encoder"),
    "mig_deita_quality_model": (DEITA, "@other_encoder"),
    "mig_reward_model": (
        {"mig_scorer": "reward", "mig_reward_model": "@encoder", "mig_score_scale": "rank"},
        "@other_encoder",
    ),
    "mig_sidecar": ({"mig_sidecar": "@rows.npy"}, "@other_rows.npy"),
    "mig_retag": (TAGGED, True),
    "mig_tagger_model": (TAGGED, "@other_encoder"),
    "mig_tagger_max_tokens": (TAGGED, 64),
    "mig_instagger_template": ({**TAGGED, "mig_tagger": "instagger", "mig_tag_normalization": "none"}, "Tag {query}"),
    "mig_instagger_max_new_tokens": (
        {**TAGGED, "mig_tagger": "instagger", "mig_tag_normalization": "none"},
        64,
    ),
    "mig_labels_per_row": (TAGGED, 3),
    "mig_label_min_similarity": (TAGGED, 0.5),
    "mig_clusters": ({**TAGGED, "mig_tagger": "clusters"}, "4"),
    "mig_annotator_model": ({**CHAT, "mig_tagger": "llm"}, "another"),
    "mig_annotator_max_tokens": ({**CHAT, "mig_tagger": "llm"}, 64),
    "mig_annotator_max_chars": ({**CHAT, "mig_scorer": "llm"}, 100),
    "mig_distill_teacher": ({**CHAT, "mig_tagger": "distilled", "mig_distill_model": "@encoder"}, "instagger"),
    "mig_distill_model": (
        {**TAGGED, "mig_tagger": "distilled", "mig_distill_teacher": "instagger", "mig_distill_model": "@encoder"},
        "@other_encoder",
    ),
    "mig_distill_rows": ({**CHAT, "mig_tagger": "distilled"}, 500),
    "mig_tag_normalization": ({**CHAT, **WRITTEN}, "none"),
    "mig_tag_min_count": ({**CHAT, **WRITTEN}, 3),
    "mig_tag_max_distance": ({**CHAT, **WRITTEN}, 0.1),
    "mig_tag_min_support": ({**CHAT, **WRITTEN}, 7),
    "mig_tag_min_confidence": ({**CHAT, **WRITTEN}, 0.9),
    "mig_deita_turns": ({}, "sum"),
    "mig_ifd_model": ({"mig_method": "ifd", "mig_ifd_model": "@encoder"}, "@other_encoder"),
    "mig_ifd_max_tokens": ({"mig_method": "ifd", "mig_ifd_model": "@encoder"}, 7),
    "mig_tokenizer": ({"mig_method": "longest", "mig_tokenizer": "@encoder"}, "@other_encoder"),
    "mig_phi": ({}, "exp"),
    "mig_phi_exponent": ({}, 0.7),
    "mig_phi_offset": ({}, 0.5),
    "mig_phi_rate": ({"mig_phi": "exp"}, 2.0),
    "mig_gain": ({}, "marginal"),
    "mig_seed": ({"mig_method": "random"}, 7),
    "mig_zip_k1": ({"mig_method": "zip"}, 30),
    "mig_zip_k2": ({"mig_method": "zip"}, 30),
    "mig_zip_k3": ({"mig_method": "zip"}, 30),
    "mig_ifd_filter": ({"mig_method": "ifd"}, "superfiltering"),
    "mig_deita_threshold": ({"mig_method": "deita", "mig_row_embeddings": "@rows.npy"}, 0.8),
    "mig_car_ratio": ({"mig_method": "car", "mig_row_embeddings": "@rows.npy"}, "1:2"),
    "mig_iqs": ({"mig_method": "car", "mig_row_embeddings": "@rows.npy"}, "iqs"),
    "mig_qdit_alpha": ({"mig_method": "qdit", "mig_row_embeddings": "@rows.npy"}, 0.5),
    "mig_qdit_scale": ({"mig_method": "qdit", "mig_row_embeddings": "@rows.npy"}, "mean"),
    "mig_qdit_sample": ({"mig_method": "qdit", "mig_row_embeddings": "@rows.npy"}, 20),
}
"""By key: settings with which it has an effect, and a value that is not the one it has there. @ is a file."""

IDLE = {
    "mig_on_bad_row": "skip",
    "mig_max_failed": 0.5,
    "mig_distill_min_f1": 0.5,
    "mig_annotator_url": "http://elsewhere/v1",
    "mig_annotator_requests": 7,
    "mig_annotator_timeout": 7.5,
    "mig_embedding_batch_size": 7,
    "mig_dataset_name": "mine",
    "mig_output_dir": "@elsewhere",
    "mig_cache_dir": "@cache",
    "mig_enabled": True,
    "mig_overwrite": True,
    "mig_report": "none",
}


@pytest.fixture
def place(workplace, tmp_path):
    rows = make_rows(60)
    workplace.add("pool", rows)
    workplace.add("more", make_rows(20, seed=9), **SHAREGPT)
    (tmp_path / "vocabulary.txt").write_text("\n".join(LABELS))
    write_vectors(tmp_path / "other.npz", LABELS, seed=3)
    for name, seed in (("rows.npy", 0), ("other_rows.npy", 1)):
        np.save(tmp_path / name, np.random.default_rng(seed).normal(size=(60, 4)).astype(np.float32))
    for name in ("encoder", "other_encoder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name}))
    workplace.root = tmp_path
    return workplace


def fingerprint(place, **settings):
    named = {
        key: str(place.root / value[1:]) if isinstance(value, str) and value.startswith("@") else value
        for key, value in place.settings(**settings).items()
    }
    host, own = split_keys(named)
    return resolve(parse_arguments(own, training=True), HostArguments.read(host)).fingerprints[0]


def test_every_key_is_known_here_as_deciding_or_not():
    classified = {name: key.setting.decides for name, key in all_keys().items()}
    assert classified == {**dict.fromkeys(DECIDING, True), **dict.fromkeys(IDLE, False)}


@pytest.mark.parametrize("key", DECIDING)
def test_a_key_that_decides_changes_the_fingerprint(place, key):
    settings, value = DECIDING[key]
    before = fingerprint(place, **settings)
    assert fingerprint(place, **settings) == before
    assert fingerprint(place, **{**settings, key: value}) != before


@pytest.mark.parametrize("key", IDLE)
def test_any_other_key_does_not(place, key):
    assert fingerprint(place, **{key: IDLE[key]}) == fingerprint(place)


@pytest.mark.parametrize("name", METHODS)
def test_keys_of_other_methods_do_not(place, name):
    settings = {"mig_method": name, "mig_row_embeddings": "@rows.npy", "mig_tokenizer": "@encoder"}
    before = fingerprint(place, **settings)
    own = set(load_method(name).keys)
    others = {key for other in METHODS for key in load_method(other).keys} - own
    for key in sorted(others & set(DECIDING)):
        assert fingerprint(place, **settings, **{key: DECIDING[key][1]}) == before, key


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("vocabulary.txt", {"mig_label_vocabulary": "@vocabulary.txt"}),
        ("other.npz", {"mig_label_embeddings": "@other.npz"}),
        ("rows.npy", {"mig_method": "qdit", "mig_row_embeddings": "@rows.npy"}),
        ("encoder/config.json", {"mig_method": "qdit", "mig_row_embedding_model": "@encoder"}),
    ],
)
def test_other_content_under_the_same_name_changes_the_fingerprint(place, file, settings):
    before = fingerprint(place, **settings)
    (place.root / file).write_bytes((place.root / file).read_bytes() + b"\nmore")
    assert fingerprint(place, **settings) != before


@pytest.mark.parametrize("turns", ["first", "last"])
def test_which_turns_are_texts_is_part_of_every_selection_that_reads_texts(place, turns):
    for settings in (
        {"mig_method": "car", "mig_row_embedding_model": "@encoder"},
        {"mig_method": "ifd", "mig_ifd_model": "@encoder"},
        {"mig_method": "longest", "mig_tokenizer": "@encoder"},
    ):
        assert fingerprint(place, **settings, mig_turns=turns) != fingerprint(place, **settings)


def test_files_and_models_count_by_content_and_not_by_name(place):
    root = place.root
    for old, new in (("other.npz", "copy.npz"), ("vocabulary.txt", "copy.txt"), ("rows.npy", "copy.npy")):
        (root / new).write_bytes((root / old).read_bytes())
    (root / "copy").mkdir()
    (root / "copy" / "config.json").write_bytes((root / "encoder" / "config.json").read_bytes())
    for key, one, other in (
        ("mig_label_embeddings", "@other.npz", "@copy.npz"),
        ("mig_label_vocabulary", "@vocabulary.txt", "@copy.txt"),
    ):
        assert fingerprint(place, **{key: one}) == fingerprint(place, **{key: other})
    given = {"mig_method": "qdit"}
    assert fingerprint(place, mig_row_embeddings="@rows.npy", **given) == fingerprint(
        place, mig_row_embeddings="@copy.npy", **given
    )
    for key, more in (("mig_row_embedding_model", given), ("mig_ifd_model", {"mig_method": "ifd"})):
        assert fingerprint(place, **{key: "@encoder"}, **more) == fingerprint(place, **{key: "@copy"}, **more)


def test_the_reference_of_keys_is_the_one_that_the_code_makes():
    from support import ROOT

    page = (ROOT / "yaml_configs" / "KEYS.md").read_text(encoding="utf-8")
    assert page == render_markdown(), "python -m mig_selector.reference > yaml_configs/KEYS.md"


def test_reference_and_help_name_every_key_with_its_default_and_values():
    page, text = render_markdown(), render_help()
    for name, key in all_keys().items():
        default = "none" if key.default is None else str(key.default).lower() if key.default is False else key.default
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
        assert f"`{default}`" in line or "| none |" in line or "| this or mig_num_tokens |" in line
        assert f"  {name} (" in text
        assert key.setting.help in line
