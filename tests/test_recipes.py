import importlib.util
import inspect
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest


pytestmark = pytest.mark.llamafactory

ROOT = Path(__file__).resolve().parents[1]
BASELINES = sorted((ROOT / "yaml_configs" / "baselines").glob("*.yaml"))
RECIPES = [*sorted((ROOT / "yaml_configs").glob("*.yaml")), *BASELINES]
GPUS_PER_NODE = 8
ROWS_PER_STEP = 128


class Figures(NamedTuple):
    model: str
    template: str
    pool: str
    picks: int
    learning_rate: float
    warmup_ratio: float
    cutoff_len: int


# Copied by hand from App. A.3 of the paper; models and templates as LLaMA-Factory pairs them.
MPNET = "sentence-transformers/all-mpnet-base-v2"
LLAMA, QWEN, MISTRAL = "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B", "mistralai/Mistral-7B-v0.3"
PAPER = {
    "llama3.1_8b_tulu3.yaml": Figures(LLAMA, "llama3", "tulu3_pool", 50000, 5e-6, 0.03, 4096),
    "llama3.1_8b_openhermes2.5.yaml": Figures(LLAMA, "llama3", "openhermes2.5_pool", 50000, 7e-6, 0.01, 4096),
    "llama3.1_8b_x_sota.yaml": Figures(LLAMA, "llama3", "x_sota_pool", 6000, 2e-5, 0.1, 2048),
    "qwen2.5_7b_tulu3.yaml": Figures(QWEN, "qwen", "tulu3_pool", 50000, 5e-6, 0.03, 4096),
    "mistral_7b_v0.3_tulu3.yaml": Figures(MISTRAL, "mistral", "tulu3_pool", 50000, 5e-6, 0.03, 4096),
}

# The hub names stand in the authors' README.
PUBLISHED_POOLS = {
    "tulu3_pool": "xsample/tulu-3-pool-annotated",
    "openhermes2.5_pool": "xsample/openhermes-2.5-pool-annotated",
    "x_sota_pool": "xsample/deita-sota-pool-annotated",
}

# Columns and licences stand on the dataset cards; tests/test_annotated_pools.py selects from rows in their shape.
ANNOTATED_POOLS = {
    "llama3.1_8b_infinity_instruct.yaml": ("infinity_instruct_pool", "BAAI/Infinity-Instruct", "Gen"),
    "llama3.1_8b_magpie.yaml": ("magpie_pool", "Magpie-Align/Magpie-Llama-3.1-Pro-MT-300K-Filtered", None),
    "llama3.1_8b_smol_magpie_ultra.yaml": ("smol_magpie_ultra_pool", "HuggingFaceTB/smoltalk", "smol-magpie-ultra"),
}

every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
paper_recipe = pytest.mark.parametrize(
    "recipe", [ROOT / "yaml_configs" / name for name in PAPER], ids=lambda p: p.name
)


@pytest.fixture(autouse=True)
def in_the_root_of_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def read(monkeypatch):
    def read_as_the_host_does(recipe: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        from llamafactory.hparams.parser import read_args

        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(recipe.relative_to(ROOT))])
        keys = read_args()
        ours = {key: value for key, value in keys.items() if key.startswith("mig_")}
        return {key: value for key, value in keys.items() if key not in ours}, ours

    return read_as_the_host_does


@pytest.fixture
def parse(monkeypatch):
    def parse_as_the_host_does(keys: dict[str, Any]) -> tuple[Any, ...]:
        from llamafactory.hparams.parser import _parse_train_args

        # use_cpu: without it transformers refuses bf16 where there is no GPU, and with a GPU it would already start
        # DeepSpeed's process group. Every other key stays as the recipe has it.
        return _parse_train_args({**keys, "use_cpu": True})

    monkeypatch.delenv("ALLOW_EXTRA_ARGS", raising=False)  # with it the host would let unknown keys pass
    yield parse_as_the_host_does
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else every model that a later test loads in this process would be a ZeRO-3 one


def commands(recipe: Path) -> list[str]:
    """The shell lines in a recipe's comments, continued lines joined."""
    text = "\n".join(line.lstrip("# ") for line in recipe.read_text().splitlines() if line.startswith("#"))
    joined = re.sub(r"\\\n", " ", text)
    return [
        line
        for line in joined.splitlines()
        if re.search(r"\.yaml\b", line) and re.search(r"\b(train|torchrun)\b", line)
    ]


def test_the_five_recipes_of_the_paper_are_there():
    assert set(PAPER) <= {recipe.name for recipe in RECIPES}


@every_recipe
def test_a_recipe_is_accepted_by_the_parser_of_llamafactory(recipe, read, parse):
    from llamafactory.data.template import TEMPLATES

    host, _ = read(recipe)
    _, data, training, finetuning, _ = parse(host)
    assert data.template in TEMPLATES
    assert finetuning.stage == "sft"
    assert training.do_train


@every_recipe
def test_every_mig_key_of_a_recipe_is_a_known_one(recipe, read):
    from mig_selector.arguments import all_keys

    _, ours = read(recipe)
    assert "mig_num_samples" in ours
    assert set(ours) <= set(all_keys())


# Copied by hand from App. A.1 of the paper, for Tulu3.
BASELINE_SETTINGS = {
    "random": {"mig_seed": 42},
    "zip": {"mig_zip_k1": 10_000, "mig_zip_k2": 200, "mig_zip_k3": 100},
    "ifd": {"mig_ifd_filter": "mig"},
    "instag": {"mig_min_label_count": 2},
    "deita": {"mig_row_embedding_model": LLAMA, "mig_deita_threshold": 0.9, "mig_deita_turns": "sum"},
    "car": {"mig_row_embedding_model": MPNET, "mig_car_ratio": "1000:161", "mig_iqs": "annotation.CaR"},
    "qdit": {"mig_row_embedding_model": MPNET, "mig_qdit_alpha": 0.7, "mig_qdit_scale": "none"},
    "longest": {},
}


def test_there_is_a_recipe_for_every_method_that_mig_is_compared_with():
    assert {recipe.stem for recipe in BASELINES} == set(BASELINE_SETTINGS)


@pytest.mark.parametrize("recipe", BASELINES, ids=lambda path: path.stem)
def test_a_baseline_differs_from_the_papers_recipe_in_nothing_but_its_choice(recipe, read):
    from mig_selector.arguments import parse_arguments

    host, ours = read(recipe)
    training, _ = read(ROOT / "yaml_configs" / "llama3.1_8b_tulu3.yaml")
    assert host == {**training, "output_dir": f"saves/llama3.1_8b_tulu3_{recipe.stem}_50k"}
    arguments = parse_arguments(ours, training=True)
    assert (arguments.mig_method, arguments.budgets) == (recipe.stem, (50_000,))
    for key, value in BASELINE_SETTINGS[recipe.stem].items():
        assert arguments[key] == value


@paper_recipe
def test_a_recipe_trains_with_the_figures_of_the_paper(recipe, read, parse):
    host, ours = read(recipe)
    model, data, training, finetuning, _ = parse(host)
    paper = PAPER[recipe.name]
    assert model.model_name_or_path == paper.model
    assert (data.template, data.dataset, data.cutoff_len) == (paper.template, [paper.pool], paper.cutoff_len)
    assert ours["mig_num_samples"] == paper.picks
    assert training.learning_rate == paper.learning_rate
    assert training.num_train_epochs == 3
    assert training.lr_scheduler_type == "linear"
    assert training.bf16
    assert finetuning.finetuning_type == "full"


@paper_recipe
def test_the_warm_up_is_the_share_of_the_steps_that_the_paper_gives(recipe, read, parse):
    host, _ = read(recipe)
    training = parse(host)[2]
    assert training.get_warmup_steps(1000) == math.ceil(1000 * PAPER[recipe.name].warmup_ratio)


@paper_recipe
def test_a_step_holds_128_rows_on_one_node_of_8_gpus(recipe, read, parse):
    host, _ = read(recipe)
    training = parse(host)[2]
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * GPUS_PER_NODE
    assert rows == ROWS_PER_STEP


@paper_recipe
def test_deepspeed_runs_zero_3_with_the_batch_size_of_the_recipe(recipe, read, parse):
    host, _ = read(recipe)
    training = parse(host)[2]
    config = json.loads((ROOT / host["deepspeed"]).read_text())
    assert config["zero_optimization"]["stage"] == 3
    assert training.hf_deepspeed_config.is_zero3()
    resolved = training.hf_deepspeed_config.config
    assert resolved["train_micro_batch_size_per_gpu"] == training.per_device_train_batch_size
    assert resolved["gradient_accumulation_steps"] == training.gradient_accumulation_steps
    assert resolved["bf16"]["enabled"] is True


@paper_recipe
def test_the_pool_of_a_recipe_is_a_published_one_that_the_host_reads_as_sharegpt(recipe, read):
    from llamafactory.data.parser import get_dataset_list

    host, _ = read(recipe)
    (pool,) = get_dataset_list([host["dataset"]], host["dataset_dir"])
    assert (pool.load_from, pool.dataset_name) == ("hf_hub", PUBLISHED_POOLS[host["dataset"]])
    assert (pool.formatting, pool.messages) == ("sharegpt", "dialogs")
    tags = (pool.role_tag, pool.content_tag, pool.user_tag, pool.assistant_tag, pool.system_tag)
    assert tags == ("role", "content", "user", "assistant", "system")


@pytest.mark.parametrize("recipe", ANNOTATED_POOLS)
def test_a_recipe_for_an_annotated_pool_differs_in_the_pool_its_labels_and_its_scores(recipe, read, parse):
    from llamafactory.data.parser import get_dataset_list

    host, ours = read(ROOT / "yaml_configs" / recipe)
    training, _ = read(ROOT / "yaml_configs" / "llama3.1_8b_tulu3.yaml")
    name, repository, subset = ANNOTATED_POOLS[recipe]
    stem = recipe.removesuffix(".yaml")
    assert host == {**training, "dataset": name, "output_dir": f"saves/{stem}_mig_50k"}
    assert set(ours) == {"mig_num_samples", "mig_labels", "mig_score", "mig_score_scale"}
    (pool,) = get_dataset_list([name], host["dataset_dir"])
    assert (pool.load_from, pool.dataset_name, pool.subset) == ("hf_hub", repository, subset)


def test_the_names_of_the_pools_may_name_a_selection():
    names = json.loads((ROOT / "yaml_configs/data/dataset_info.json").read_text())
    assert {*PUBLISHED_POOLS, *(name for name, *_ in ANNOTATED_POOLS.values())} == set(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,128}", name) for name in names)


@paper_recipe
def test_the_comments_of_a_recipe_start_this_recipe_in_three_ways(recipe):
    lines = commands(recipe)
    assert len(lines) == 3
    assert all(f"yaml_configs/{recipe.name}" in line for line in lines)
    assert sum("llamafactory-cli train" in line for line in lines) == 2
    assert sum("NNODES=" in line for line in lines) == 1
    assert sum(line.startswith("torchrun") for line in lines) == 1


@every_recipe
def test_the_commands_in_comments_name_files_modules_and_variables_that_exist(recipe):
    import llamafactory.launcher

    launcher = inspect.getsource(llamafactory.launcher)
    for line in commands(recipe):
        assert all((ROOT / path).is_file() for path in re.findall(r"yaml_configs/\S+", line)), line
        assert all(importlib.util.find_spec(module) for module in re.findall(r"-m (\S+)", line)), line
        assert all(f'"{variable}"' in launcher for variable in re.findall(r"\b([A-Z_]+)=", line)), line


@paper_recipe
def test_every_command_in_the_comments_keeps_128_rows_a_step(recipe, read):
    host, _ = read(recipe)
    for line in commands(recipe):
        nodes = int(dict(re.findall(r"\b(NNODES)=(\d+)", line)).get("NNODES", 1))
        overrides = {key: int(value) for key, value in re.findall(r" ([a-z_]+)=(\d+)", line)}
        keys = {**host, **overrides}
        rows = keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"] * GPUS_PER_NODE * nodes
        assert rows == ROWS_PER_STEP, line
