"""mig-selector doctor: what it looks at, and what it says is wrong."""

import sys

import pytest
import yaml
from support import make_raw_rows, make_row

from mig_selector.cli import main
from mig_selector.integration.packages import find_clashes
from mig_selector.pipeline.checkup import check_cache, check_config, check_gpus, check_hook


def faults(findings):
    return [finding.text for finding in findings if finding.level == "fault"]


@pytest.fixture
def write_config(pool_of_60, tmp_path):
    """Write a configuration that selects from a pool of 60 rows, with more keys."""

    def write(**more):
        settings = {key: value for key, value in pool_of_60.settings(**more).items() if value is not None}
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


def test_the_command_prints_one_screen_and_exits_with_1_if_something_is_wrong(write_config, capsys):
    assert main(["doctor", str(write_config()), "mig_num_samples=none"]) == 1
    out = capsys.readouterr().out
    topics = [line for line in out.splitlines() if not line.startswith(" ")]
    assert topics[:4] == ["installed", "hook", "GPUs", "cache"]
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in out
    assert "live: this interpreter" in out
    assert "  FAULT  mig_num_samples: 'none' is not allowed" in out
    assert len(out.splitlines()) < 25


def test_lines_of_an_error_are_lines(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    assert main(["doctor", str(tmp_path / "broken.yaml")]) == 1
    out = capsys.readouterr().out
    assert "broken.yaml cannot be read: while parsing a flow sequence\n           in " in out
    assert "\\n" not in out


def test_a_sound_configuration_is_said_to_be_sound_and_nothing_is_done(write_config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    findings = list(check_config(write_config()))
    assert faults(findings) == []
    assert "sound, as far as can be told before the pool is read" in [finding.text for finding in findings]
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "c.yaml"])


@pytest.mark.llamafactory
@pytest.mark.slow
def test_all_faults_are_found_at_once(write_config, tmp_path):
    config = write_config(
        dataset="nowhere",
        mig_label_embeddings=None,
        mig_label_vocabulary="/no/vocabulary",
        mig_embedding_model="/no/encoder",
        model_name_or_path="/no/model",
        templat="llama3",
    )
    found = "\n".join(faults(check_config(config)))
    for fault in (
        "'nowhere' is not in",
        "mig_label_vocabulary: /no/vocabulary is not a file",
        "mig_embedding_model: '/no/encoder' is not a folder",
        "templat is not a key of LLaMA-Factory; did you mean template?",
        "model_name_or_path: /no/model is not a folder",
    ):
        assert fault in found


def test_an_entry_that_does_not_fit_its_rows_is_found(write_config, pool_of_60):
    pool_of_60.add("pool", columns={"prompt": "question", "response": "reply"})
    [fault] = faults(check_config(write_config()))
    assert "LLaMA-Factory would train on none of the first 50 rows of pool.jsonl" in fault


def test_rows_without_the_labels_or_the_score_that_the_method_needs_are_found(write_config, pool_of_60):
    [fault] = faults(check_config(write_config(mig_labels="tags")))
    assert fault.startswith("none of the first 50 rows of pool.jsonl can be selected: no labels at tags: 50.")
    assert "Check mig_labels, mig_score" in fault
    assert "Set mig_tagger: vocabulary for rows without labels" in fault
    [fault] = faults(check_config(write_config(mig_score="quality")))
    assert "no score at quality: 50" in fault
    assert faults(check_config(write_config(mig_method="random", mig_label_embeddings=None))) == []
    pool_of_60.add("more", [make_row(0, ["algebra"], 1.0, tags="algebra")])
    assert faults(check_config(write_config(dataset="pool,more", mig_labels="tags"))) == []


def test_labels_and_scores_that_a_run_makes_are_not_missed(write_config, workplace, minilm):
    workplace.add("raw", make_raw_rows(60), columns={"prompt": "instruction", "query": "input", "response": "output"})
    raw = {"dataset": "raw", "mig_embedding_model": minilm, "mig_label_embeddings": None}
    [fault] = faults(check_config(write_config(**raw)))
    assert "no labels at annotation.instag.content: 50" in fault
    assert faults(check_config(write_config(**raw, mig_tagger="clusters", mig_tagger_model=minilm))) == []


def test_the_pool_is_checked_beside_keys_that_are_wrong(write_config, pool_of_60):
    pool_of_60.add("pool", columns={"prompt": "question", "response": "reply"})
    found = faults(check_config(write_config(mig_labls="tags")))
    assert [fault.split()[0] for fault in found] == ["mig_labls", "dataset"]
    assert "train on none of the first 50 rows" in found[1]


def test_files_and_models_are_checked_beside_keys_that_are_wrong(write_config):
    files = {"mig_label_vocabulary": "/no/vocabulary", "mig_embedding_model": "/no/encoder"}
    found = faults(check_config(write_config(mig_phi="cubic", mig_label_embeddings=None, **files)))
    assert [fault.split(":")[0] for fault in found] == ["mig_phi", "mig_label_vocabulary", "mig_embedding_model"]
    # The vectors are given, under a misspelt key, so the default encoder is not needed.
    found = faults(check_config(write_config(mig_label_embeddings=None, mig_label_embedings="v.npz")))
    assert [fault.split()[0] for fault in found] == ["mig_label_embedings"]


def test_rows_are_checked_beside_models_that_are_missing(write_config):
    config = write_config(mig_labels="tags", mig_label_embeddings=None, mig_embedding_model="/no/encoder")
    missing, lack = faults(check_config(config))
    assert missing.startswith("mig_embedding_model: ")
    assert "no labels at tags: 50" in lack


def test_a_pool_on_a_hub_is_not_downloaded(write_config, pool_of_60):
    pool_of_60.add("hub", hf_hub_url="no/where")
    assert faults(check_config(write_config(dataset="hub"))) == []


@pytest.mark.parametrize(("text", "fault"), [("a: [1", "cannot be read"), ("- 1", "must hold keys and values")])
def test_a_broken_configuration_is_a_fault(tmp_path, text, fault):
    (tmp_path / "c.yaml").write_text(text)
    assert fault in faults(check_config(tmp_path / "c.yaml"))[0]
    assert "none.yaml does not exist" in faults(check_config(tmp_path / "none.yaml"))[0]


@pytest.mark.parametrize(
    "more", [{"mig_enabled": False}, dict.fromkeys(("mig_num_samples", "mig_label_embeddings", "mig_report"))]
)
def test_without_a_selection_it_says_so(write_config, more):
    findings = list(check_config(write_config(**more)))
    assert faults(findings) == []
    assert "training uses the whole pool" in findings[0].text


def write_package(folder, name, version, *requirements):
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Requires-Dist: {line}" for line in requirements]
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )


def test_clashes_come_with_the_command_that_fixes_them(tmp_path, monkeypatch):
    write_package(
        tmp_path, "tree", "1.0", "Leaf_Mould<3", "twig>=2", "root; extra == 'deep'", "snow; sys_platform == 'no'"
    )
    write_package(tmp_path, "leaf_mould", "3.1", "tree", "worm[red]")
    write_package(tmp_path, "worm", "2.0", "soil!=4; extra == 'red'", "sky; extra == 'blue'", "leaf-mould>=2")
    write_package(tmp_path, "soil", "4")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_clashes("tree") == [
        "leaf-mould 3.1, but tree needs leaf-mould<3: pip install 'leaf-mould<3,>=2'",
        "soil 4, but worm needs soil!=4: pip install 'soil!=4'",
        "twig is not installed, but tree needs twig>=2: pip install 'twig>=2'",
    ]


def write_launcher(folder, name, interpreter):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{interpreter}\n")
    (folder / name).chmod(0o755)


def test_a_launcher_of_an_interpreter_without_the_hook_is_a_fault(tmp_path, monkeypatch):
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    write_launcher(tmp_path / "bin", "torchrun", bare)
    write_launcher(tmp_path / "bin", "llamafactory-cli", sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    findings = list(check_hook())
    [fault] = faults(findings)
    assert fault.startswith(f"not live: torchrun ({tmp_path / 'bin' / 'torchrun'}); ")
    assert "mig_selector.pth" in fault
    assert f"{bare} -m pip install" in fault
    launcher = tmp_path / "bin" / "llamafactory-cli"
    assert f"live: this interpreter and llamafactory-cli ({launcher})" in [finding.text for finding in findings]


def test_an_interpreter_that_is_gone_and_launchers_that_are_missing(tmp_path, monkeypatch):
    write_launcher(tmp_path / "bin", "torchrun", "/no/python3")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    findings = list(check_hook())
    assert "/no/python3 does not answer" in faults(findings)[0]
    assert "llamafactory-cli is not on PATH" in "".join(each.text for each in findings if each.level == "note")


def test_a_cache_that_others_can_write_to_is_not_believed(tmp_path, monkeypatch):
    cache = tmp_path / "shared"
    cache.mkdir()
    cache.chmod(0o777)
    [fault] = faults(check_cache(str(cache)))
    assert f"{cache} belongs to another user, or others can write to it" in fault
    monkeypatch.setenv("MIG_SELECTOR_SHARED_CACHE", "1")
    assert faults(check_cache(str(cache))) == []


def test_a_cache_in_a_home_that_does_not_exist(monkeypatch):
    assert "there is none; set mig_cache_dir" in faults(check_cache("~nobody-of-that-name/cache"))[0]
    monkeypatch.setenv("MIG_SELECTOR_CACHE", "~nobody-of-that-name/cache")
    assert "would be in a home folder, but there is none" in faults(check_cache())[0]


def test_kernels_that_others_can_replace_are_a_fault(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    (tmp_path / "cache" / "kernels").mkdir(parents=True)
    (tmp_path / "cache" / "kernels").chmod(0o777)
    assert "is not private, so every run compiles again" in "".join(faults(check_cache()))


def test_gpus_that_the_user_hides_are_no_fault(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert faults(check_gpus()) == []
