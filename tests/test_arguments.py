import pytest

from mig_selector.arguments import all_keys, parse_arguments, split_keys
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.needs import resolve_needs


def parse(training=False, **keys):
    return parse_arguments({f"mig_{key}": value for key, value in keys.items()}, training=training)


def test_defaults_are_those_of_the_paper():
    arguments = parse(num_samples=50_000)
    assert arguments.budgets == (50_000,)
    needs = resolve_needs(arguments, HostArguments.read({"dataset": "pool"}))
    assert needs.label_model.name == "intfloat/e5-mistral-7b-instruct"
    assert (arguments.mig_edge_threshold, arguments.mig_propagation_weight) == (0.9, 1.0)
    assert (arguments["mig_phi"], arguments["mig_phi_exponent"], arguments["mig_phi_offset"]) == ("pow", 0.8, 1e-6)
    assert (arguments["mig_gain"], arguments.mig_normalize, arguments.mig_min_label_count) == ("gradient", False, 2)


def test_no_key_defaults_to_true():
    # The LLaMA Board drops keys whose value is false, so such a key could never be switched off there.
    assert not [key.name for key in all_keys().values() if key.default is True]


@pytest.mark.parametrize(
    ("given", "budgets"),
    [
        (5, (5,)),
        ("5", (5,)),
        (0.05, (0.05,)),
        ("5e-2", (0.05,)),
        ([1000, 0.5], (1000, 0.5)),
        ("1000, 5000", (1000, 5000)),
    ],
)
def test_budgets_are_numbers_of_rows_or_shares(given, budgets):
    assert parse(num_samples=given).budgets == budgets


@pytest.mark.parametrize("given", [0, -1, 1.0, 0.0, -0.5, 1.5, 5000.0, "many", True, "", [], "5,,6", "nan", "inf"])
def test_other_budgets_are_refused(given):
    with pytest.raises(ArgumentError, match="mig_num_samples"):
        parse(num_samples=given)


@pytest.mark.parametrize(("given", "meant"), [("50k", "50000"), ("1.5K", "1500"), ("10%", "0.10"), ("2m", "2000000")])
def test_a_budget_in_a_unit_is_refused_with_what_was_meant(given, meant):
    with pytest.raises(ArgumentError, match=f"mig_num_samples: '{given}' is not allowed; .*; write {meant}[.]"):
        parse(num_samples=given)


def test_a_list_of_budgets_is_for_selection_only():
    with pytest.raises(ArgumentError, match=r"mig_num_samples: '5,6' is a list; training takes one budget"):
        parse(num_samples=[5, 6], training=True)


def test_several_budgets_need_a_name_each():
    with pytest.raises(ArgumentError, match=r"must hold \{budget\}"):
        parse(num_samples=[5, 6], dataset_name="mine")
    assert parse(num_samples=[5, 6], dataset_name="mine_{budget}").mig_dataset_name == "mine_{budget}"


def test_the_budget_must_be_given():
    with pytest.raises(ArgumentError, match="mig_num_samples is missing"):
        parse(phi="pow")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("mig_num_sample", "mig_num_samples"), ("mig_treshold", "mig_edge_threshold"), ("mig_pih", "mig_phi")],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key, nearest):
    with pytest.raises(ArgumentError, match=rf"{key} is not a key of mig_selector; did you mean {nearest}\?"):
        parse_arguments({key: 1}, training=False)


def test_a_key_like_no_other_is_refused_with_the_list_of_keys():
    with pytest.raises(ArgumentError, match="known keys: mig_num_samples, mig_num_tokens, mig_count"):
        parse_arguments({"mig_qqqqqqqqqqqq": 1}, training=False)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("edge_threshold", 0, "above 0 and at most 1"),
        ("edge_threshold", 1.01, "above 0 and at most 1"),
        ("edge_threshold", "high", "expected a number"),
        ("edge_threshold", True, "expected a number"),
        ("propagation_weight", -0.1, "between 0 and 1e.06"),
        ("propagation_weight", 1e308, "between 0 and 1e.06"),
        ("propagation_weight", float("nan"), "expected a number"),
        ("phi_exponent", 0, "above 0 and at most 1"),
        ("phi_exponent", 1.1, "above 0 and at most 1"),
        ("phi_offset", 0, "between 1e-30 and 1e.09"),
        ("phi_offset", 1e-300, "between 1e-30 and 1e.09"),
        ("phi_rate", 0, "above 0 and at most 1e.09"),
        ("phi_rate", 1e300, "above 0 and at most 1e.09"),
        ("min_label_count", 0, "1 or more"),
        ("min_label_count", 2.5, "expected an integer"),
        ("embedding_batch_size", 0, "1 or more"),
        ("phi", "log", "expected pow or exp"),
        ("gain", "both", "expected gradient or marginal"),
        ("method", "a..b", "a dotted path"),
        ("fill", "random", "expected error or top_score"),
        ("deita_turns", "product", "expected mean or sum"),
        ("deita_threshold", 1.5, "between -1 and 1"),
        ("qdit_alpha", -0.1, "between 0 and 1"),
        ("qdit_scale", "max", "expected none or mean or minmax"),
        ("qdit_sample", -1, "0 or more"),
        ("car_ratio", "10", "two numbers of rows with a colon"),
        ("car_ratio", "0:0", "not both 0"),
        ("zip_k2", 0, "1 or more"),
        ("iqs", "a..b", "a dotted path"),
        ("turns", "some", "expected all or first or last"),
        ("ifd_max_tokens", 1, "2 or more"),
        ("ifd_filter", "none", "expected mig or superfiltering"),
        ("on_bad_row", "ignore", "expected error or skip"),
        ("report", "pdf", "expected html or none"),
        ("embedding_dtype", "int8", "expected auto or float32 or bfloat16 or float16"),
        ("normalize", "perhaps", "expected true or false"),
        ("labels", "a..b", "a dotted path"),
        ("labels", "", "expected no empty item"),
        ("labels", "a,b..c", "a dotted path"),
        ("labels", "a,a", "all different"),
        ("label_separator", "", "expected text"),
        ("score_scale", "log", "expected none or rank or sigmoid or minmax"),
        ("score", [["a"]], "expected one value, a list or comma-separated text"),
        ("dataset_name", "a b", "1 to 128 letters"),
        ("dataset_name", "x" * 129, "1 to 128 letters"),
        ("dataset_name", "../up", "1 to 128 letters"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ArgumentError, match=f"mig_{key}.*{allowed}") as caught:
        parse(num_samples=5, **{key: value})
    assert repr(value) in str(caught.value)


def test_all_faults_are_reported_at_once():
    with pytest.raises(ArgumentError) as caught:
        parse(num_samples="none", phi="log", threshold=1, edge_threshold=7)
    assert len(str(caught.value).splitlines()) == 4


def test_a_vocabulary_and_a_minimum_count_exclude_each_other():
    with pytest.raises(ArgumentError, match="mig_min_label_count: 2 together with mig_label_vocabulary"):
        parse(num_samples=5, label_vocabulary="labels.json", min_label_count=2)
    assert parse(num_samples=5, label_vocabulary="labels.json", min_label_count=1).mig_min_label_count == 1
    assert parse(num_samples=5, label_vocabulary="labels.json").mig_label_vocabulary == "labels.json"


def test_text_from_a_command_line_is_read_like_yaml():
    arguments = parse(num_samples="7", normalize="true", edge_threshold="8e-1", seed="3", pool="a, b")
    assert (arguments.mig_normalize, arguments.mig_edge_threshold, arguments["mig_seed"]) == (True, 0.8, 3)
    assert arguments.pool_names == ("a", "b")


def test_null_means_the_default():
    assert parse(num_samples=5, phi=None, pool=None) == parse(num_samples=5)


def test_our_keys_are_parted_from_the_hosts():
    assert split_keys({"stage": "sft", "mig_phi": "pow"}) == ({"stage": "sft"}, {"mig_phi": "pow"})


def test_the_cache_is_where_the_key_or_the_environment_says(monkeypatch, tmp_path):
    assert parse(num_samples=5, cache_dir=str(tmp_path / "a")).cache_dir == tmp_path / "a"
    monkeypatch.setenv("MIG_SELECTOR_CACHE", str(tmp_path / "b"))
    assert parse(num_samples=5).cache_dir == tmp_path / "b"
    monkeypatch.delenv("MIG_SELECTOR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(num_samples=5).cache_dir == tmp_path / ".cache" / "mig_selector"
