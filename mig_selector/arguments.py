"""The ``mig_*`` keys: those that every selection has, and the catalogue of all, read and checked together.

Keys that belong to one method are declared in the method's file, those of a kind of score in `annotation.scores`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from mig_selector.annotation.asking import ChatSettings
from mig_selector.annotation.distilled import DistillationSettings
from mig_selector.annotation.normalization import NormalizationSettings
from mig_selector.annotation.scores import ScoreSettings
from mig_selector.annotation.taggers import AnnotationSettings
from mig_selector.errors import ArgumentError
from mig_selector.selection.registry import keys_of_methods, load_method
from mig_selector.settings import (
    DOTTED_PATH,
    PREFIX,
    Key,
    Range,
    Setting,
    above_and_at_most,
    at_least,
    between,
    is_own_key,
    keys_of_fields,
)
from mig_selector.store.folders import absolute_path, default_cache_dir


NAME_PATTERN = re.compile(r"[A-Za-z0-9_.+-]{1,128}")
BUDGET_PLACEHOLDER = "{budget}"
_NAME = Range(f"a name or {DOTTED_PATH.text}", DOTTED_PATH.allows)
KEPT_COLUMNS = {"labels": "labels", "score": "score", "id": "_id"}
"""What ``mig_keep`` may name, and the column of a subset that it goes to."""
_KEPT = Range("labels, score or id, or several of them", lambda value: set(_split(value)) <= KEPT_COLUMNS.keys())
_PATHS = Range(
    f"{DOTTED_PATH.text}; several of them, all different, as a list or with commas between them",
    lambda value: all(map(DOTTED_PATH.allows, _split(value))) and len(set(_split(value))) == len(_split(value)),
)
_NAME_OR_PATHS = Range(f"a name or {_PATHS.text}", _PATHS.allows)

_TOKENS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
"""What the letter behind a number of tokens stands for."""

_GROUPS = {
    "mig_num_samples": "What to choose",
    "mig_labels": "Labels and scores",
    "mig_embedding_model": "Label graph",
    "mig_turns": "Texts and vectors of rows",
    "mig_dataset_name": "What is written, and where",
}


@dataclass(frozen=True, kw_only=True)
class MigArguments:
    """Selection settings, named as in the YAML; build it with `parse_arguments`, which checks every value."""

    mig_num_samples: Annotated[
        str,
        Setting(
            "Rows to choose: an integer, or a share in (0, 1) of the rows that can be chosen. This key, or "
            "mig_num_tokens, switches the selection on.",
            decides=True,
        ),
    ] = ""
    mig_num_tokens: Annotated[
        str | None,
        Setting(
            "In place of mig_num_samples: how many tokens the chosen rows may have together, as training is fed them "
            "(its tokenizer, template and cutoff_len); an integer, or a number with K, M or B (thousands, millions, "
            "billions).",
            decides=True,
        ),
    ] = None
    mig_count_tokens: Annotated[
        Literal["all", "supervised"],
        Setting(
            "Which tokens of a row mig_num_tokens counts: all that training is fed, or only the supervised ones, "
            "which have a loss (a row without any counts as one). With mig_num_samples, supervised has both counted "
            "for the summary also where no training follows.",
            decides=True,
            part="tokens",
        ),
    ] = "all"
    mig_method: Annotated[
        str,
        Setting(
            "Selection method: mig, random, zip, ifd, instag, deita, car, qdit, longest, top_score, or a custom one "
            "as package.module.function.",
            _NAME,
            decides=True,
        ),
    ] = "mig"
    mig_pool: Annotated[
        str | None,
        Setting(
            "Which of the names in `dataset` form the pool (comma-separated); the others are trained on whole.",
            decides=True,
        ),
    ] = None
    mig_fill: Annotated[
        Literal["error", "top_score"],
        Setting(
            "Where a method yields fewer rows than asked for: error, or the remaining rows by score, then in the "
            "order of the pool.",
            decides=True,
            part="filling",
        ),
    ] = "error"
    mig_val_from: Annotated[
        Literal["chosen", "rest"],
        Setting(
            "Where the validation rows of LLaMA-Factory's val_size come from: chosen takes them out of the chosen "
            "rows, rest draws them, by `seed`, from the rows that were not chosen. A share is of the chosen rows.",
            decides=True,
        ),
    ] = "chosen"
    mig_on_bad_row: Annotated[
        Literal["error", "skip"],
        Setting("At an unreadable row: error stops and names file and line, skip counts and lists it.", decides=False),
    ] = "error"
    mig_labels: Annotated[
        str | None,
        Setting(
            "Where a row's labels are: a dotted path to a string or a list of strings, or several paths whose labels "
            "are joined; default annotation.instag.content. Once set, a row must have labels whatever the method.",
            _PATHS,
            decides=True,
        ),
    ] = None
    mig_label_separator: Annotated[
        str | None,
        Setting(
            "What separates the labels where mig_labels leads to a string (`a, b`): a comma, for example. Without it "
            "a string is one label. The strings of a list are never split.",
            decides=True,
            part="labels",
            may_be_blank=True,
        ),
    ] = None
    mig_score: Annotated[
        str | None,
        Setting(
            "Quality of a row: deita (quality x complexity of its turns), ifd, response_tokens, num_labels, constant, "
            "a dotted path to a number or a list of numbers (their mean), or several paths whose numbers are "
            "multiplied, turn by turn; default deita, ifd for ifd, response_tokens for longest. Once set, a row must "
            "have that score whatever the method.",
            _NAME_OR_PATHS,
            decides=True,
        ),
    ] = None
    mig_normalize: Annotated[
        bool, Setting("Divide a row's score by the number of labels that it names.", decides=True, part="labels")
    ] = False
    mig_label_vocabulary: Annotated[
        str | None,
        Setting(
            "File with the labels that count: a JSON list (.json), or one label per line (any other).",
            decides=True,
            part="labels",
        ),
    ] = None
    mig_min_label_count: Annotated[
        int,
        Setting(
            "Without a vocabulary: labels that fewer rows have do not count.", at_least(1), decides=True, part="labels"
        ),
    ] = 2
    mig_embedding_model: Annotated[
        str | None,
        Setting(
            "Sentence-transformers model that embeds the labels: hub id or folder; default "
            "intfloat/e5-mistral-7b-instruct or, with a mig_tagger other than instagger, mig_tagger_model.",
            decides=True,
            part="graph",
        ),
    ] = None
    mig_embedding_batch_size: Annotated[
        int, Setting("Labels embedded at once on each rank.", at_least(1), decides=False)
    ] = 64
    mig_embedding_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Setting(
            "Precision of all encoders and of the IFD model: auto is bfloat16 on a GPU and float32 on a CPU.",
            decides=True,
            part="models",
        ),
    ] = "auto"
    mig_label_embeddings: Annotated[
        str | None,
        Setting(
            "An .npz file with `labels` (L,) and `embeddings` (L, D): then no encoder is loaded.",
            decides=True,
            part="graph",
        ),
    ] = None
    mig_edge_threshold: Annotated[
        float,
        Setting(
            "Cosine similarity from which two labels share an edge (Eq. 3).",
            above_and_at_most(0, 1),
            decides=True,
            part="graph",
        ),
    ] = 0.9
    mig_propagation_weight: Annotated[
        float,
        Setting(
            "Weight of edges against a label's own 1 (alpha, Eq. 6).",
            between(0, 1e6),
            decides=True,
            part="graph",
        ),
    ] = 1.0
    mig_turns: Annotated[
        Literal["all", "first", "last"],
        Setting(
            "What counts as question and answer of a conversation, for mig_tagger, mig_scorer, embeddings, IFD and "
            "length: all turns, the first question and its answer, or the last answer and everything before it.",
            decides=True,
            part="texts",
        ),
    ] = "all"
    mig_row_embeddings: Annotated[
        str | None,
        Setting(
            "An .npy file with a vector for every row of the pool, in order, (N, D): then no row is embedded.",
            decides=True,
            part="row vectors",
        ),
    ] = None
    mig_row_embedding_model: Annotated[
        str | None,
        Setting(
            "Model that embeds rows: hub id or folder; default mistralai/Mistral-7B-v0.1 for deita, "
            "sentence-transformers/all-mpnet-base-v2 for car and qdit.",
            decides=True,
            part="row vectors",
        ),
    ] = None
    mig_dataset_name: Annotated[
        str | None,
        Setting("Name of the new dataset_info.json entry; default <pool>_<method>_<budget>.", decides=False),
    ] = None
    mig_keep: Annotated[
        str | None,
        Setting(
            "What the subset's rows keep beside the columns that training reads: labels (those that count), score and "
            "id (comma-separated), in columns labels, score and _id. Then the subset can be a pool itself.",
            _KEPT,
            decides=True,
        ),
    ] = None
    mig_output_dir: Annotated[
        str | None, Setting("Where subsets are kept; default <dataset_dir>/mig_selections.", decides=False)
    ] = None
    mig_cache_dir: Annotated[
        str | None,
        Setting(
            "Where annotations, vectors, IFD, token counts, content hashes and the pool index (labels, scores, row "
            "offsets) are kept; default $MIG_SELECTOR_CACHE or ~/.cache/mig_selector, where compiled code is in any "
            "case. It may be deleted.",
            decides=False,
        ),
    ] = None
    mig_enabled: Annotated[
        bool | None,
        Setting(
            "false trains on the whole pool, as if there were no mig_ keys; so does MIG_SELECTOR_DISABLE=1 in the "
            "environment. Not set is true.",
            decides=False,
        ),
    ] = None
    mig_overwrite: Annotated[bool, Setting("Select again even if a valid subset exists.", decides=False)] = False
    mig_report: Annotated[
        Literal["html", "none"],
        Setting("Write report.html and report.json into the folder of the subset, or nothing.", decides=False),
    ] = "html"
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values of the keys that kinds of score and methods declare, defaults filled in."""
    function: Callable[..., Any] | None = None
    """The method, where Python code gave a function in place of a name."""

    def __getitem__(self, key: str) -> Any:
        """Return the value of any key, ``mig_`` included."""
        return self.more[key] if key in self.more else getattr(self, key)

    @property
    def values(self) -> dict[str, Any]:
        """Every key with its value."""
        return {**{key: getattr(self, key) for key in own_keys()}, **self.more}

    @property
    def options(self) -> dict[str, Any]:
        """Every key with its value, without the prefix, as methods know them."""
        return {key.removeprefix(PREFIX): value for key, value in self.values.items()}

    @property
    def counts_tokens(self) -> bool:
        """Whether budgets are tokens, and not rows."""
        return self.mig_num_tokens is not None

    @property
    def budgets(self) -> tuple[int | float, ...]:
        """The budgets in the order given: tokens, or rows, of which a float is a share of the kept rows."""
        if self.mig_num_tokens is not None:
            return tuple(map(_read_tokens, _split(self.mig_num_tokens)))
        return tuple(map(_read_budget, _split(self.mig_num_samples)))

    @property
    def pool_names(self) -> tuple[str, ...] | None:
        """Names that form the pool, or None where every name in `dataset` does."""
        return None if self.mig_pool is None else tuple(_split(self.mig_pool))

    @property
    def kept(self) -> tuple[str, ...]:
        """What the subset's rows keep beside what training reads: keys of `KEPT_COLUMNS`, in the order there."""
        named = _split(self.mig_keep or "")
        return tuple(each for each in KEPT_COLUMNS if each in named)

    @property
    def label_paths(self) -> tuple[str, ...]:
        """The paths in ``mig_labels``; none where it is not set."""
        return () if self.mig_labels is None else tuple(_split(self.mig_labels))

    @property
    def cache_dir(self) -> Path:
        """Absolute path of the cache."""
        return absolute_path(self.mig_cache_dir, "mig_cache_dir") if self.mig_cache_dir else default_cache_dir()


_LISTS = {"mig_num_samples", "mig_num_tokens", "mig_pool", "mig_labels", "mig_score", "mig_keep", "mig_clusters"}


@functools.cache
def own_keys() -> dict[str, Key]:
    """Return the keys that every selection has, by name."""
    return keys_of_fields(MigArguments, _GROUPS)


@functools.cache
def all_keys() -> dict[str, Key]:
    """Return every key of the product by name: those above, those of annotation and scores, those of methods."""
    annotation = keys_of_fields(AnnotationSettings, {"mig_tagger": "Rows without labels or scores"})
    scores = keys_of_fields(ScoreSettings, {"mig_score_scale": "Scores"})
    chat = keys_of_fields(ChatSettings, {"mig_annotator_url": "Chat model that labels or scores rows"})
    distilled = keys_of_fields(DistillationSettings, {"mig_distill_teacher": "Labels learnt from a language model"})
    tags = keys_of_fields(NormalizationSettings, {"mig_tag_normalization": "Tags that a language model invents"})
    return {**own_keys(), **annotation, **chat, **distilled, **tags, **scores, **keys_of_methods()}


def split_keys(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a configuration into the host's keys and ours.

    Args:
        settings: A whole configuration, as LLaMA-Factory reads it.

    Returns:
        The host's settings, and those whose key begins with ``mig_``; both in the order given. Keys that were meant to
        begin with it (``MIG_PHI``, ``mig-phi``, a nested ``mig``) are ours too, so that they get a hint.
    """
    ours = {key: value for key, value in settings.items() if is_own_key(key)}
    return {key: value for key, value in settings.items() if key not in ours}, ours


def is_switched_off(settings: Mapping[str, Any]) -> bool:
    """Whether ``mig_enabled`` is false; a value that is neither true nor false is left to `parse_arguments`."""
    try:
        return settings.get("mig_enabled") is not None and not own_keys()["mig_enabled"].read(settings["mig_enabled"])
    except ValueError:
        return False


def check_names(settings: Mapping[str, Any]) -> None:
    """Refuse unknown keys; a program that asks for a key calls this first, as the key may only be misspelt.

    Args:
        settings: A whole configuration, as LLaMA-Factory reads it.

    Raises:
        ArgumentError: One or more of our keys are unknown.
    """
    _, own_settings = split_keys(settings)
    keys = {**all_keys(), **_keys_of_custom_method(own_settings.get("mig_method"))}
    if faults := _unknown_keys(own_settings, keys):
        raise ArgumentError("\n".join(faults))


def parse_arguments(settings: Mapping[str, Any], *, training: bool) -> MigArguments:
    """Check the ``mig_*`` keys, all of them, and report every fault at once.

    Args:
        settings: Keys beginning with ``mig_`` and their values, typed (YAML, Python) or as text (command line).
            ``mig_method`` may be a function.
        training: Whether training follows; it then takes exactly one budget.

    Returns:
        The settings with defaults filled in.

    Raises:
        ArgumentError: One or more keys are unknown, missing or out of range; names each key, its value and what is
            allowed.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    function = given.get("mig_method") if callable(given.get("mig_method")) else None
    if function is not None:
        given["mig_method"] = load_method(function).name
    keys = {**all_keys(), **_keys_of_custom_method(function or given.get("mig_method"))}
    faults = _unknown_keys(settings, keys)
    values: dict[str, Any] = {}
    for name, raw in given.items():
        if name not in keys:
            continue
        try:
            values[name] = _join_list(name, raw) if name in _LISTS else keys[name].read(raw)
        except ValueError as error:
            faults.append(f"{name}: {raw!r} is not allowed; {error}.")
    faults += _range_faults(values, keys, function)
    if not faults:  # else a key may seem to be missing that is only misspelt
        faults = _rule_faults(values, training=training)
    if faults:
        raise ArgumentError("\n".join(faults))
    more = {name: values.pop(name, key.default) for name, key in keys.items() if name not in own_keys()}
    return MigArguments(**values, more=more, function=function)


def _keys_of_custom_method(method: Any) -> dict[str, Key]:
    """Return the keys that a method of another package declares; a name that is not a method is found out later."""
    if not callable(method) and (not isinstance(method, str) or "." not in method):
        return {}
    try:
        return load_method(method).keys
    except ArgumentError:
        return {}


def _unknown_keys(settings: Mapping[str, Any], keys: Mapping[str, Key]) -> list[str]:
    return [_unknown_key(key, value, keys) for key, value in settings.items() if key not in keys]


def _unknown_key(key: str, value: Any, keys: Mapping[str, Key]) -> str:
    if isinstance(value, Mapping):
        flat = ", ".join(f"{PREFIX}{name}: {each}" for name, each in value.items())
        return f"{key}: keys are not nested; write {flat} beside LLaMA-Factory's keys."
    plain = key.lstrip("-").lower().replace("-", "_")
    option = "num_samples" if plain == PREFIX.rstrip("_") else plain.removeprefix(PREFIX)
    # Without the prefix: it is the same in all keys, and would make any two of them look alike.
    nearest = difflib.get_close_matches(option, [known.removeprefix(PREFIX) for known in keys], n=1)
    hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else f"known keys: {', '.join(keys)}"
    return f"{key} is not a key of mig_selector; {hint}"


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _join_list(key: str, raw: Any) -> str:
    parts = list(raw) if isinstance(raw, Sequence) and not isinstance(raw, str) else [raw]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        raise ValueError("expected one value, a list or comma-separated text")
    text = ",".join(part for each in parts for part in _split(str(each)))
    if not all(_split(text)):
        raise ValueError("expected no empty item")
    if key in {"mig_num_samples", "mig_num_tokens"}:
        for part in _split(text):
            (_read_tokens if key == "mig_num_tokens" else _read_budget)(part)
    return text


_UNITS = {"k": Decimal(1_000), "m": Decimal(1_000_000), "%": Decimal("0.01")}


def _read_budget(text: str) -> int | float:
    expected = "expected an integer of at least 1, or a share of the pool between 0 and 1, both excluded"
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM%])", text):
        raise ValueError(f"{expected}; write {Decimal(found[1]) * _UNITS[found[2].lower()]:f}")
    if re.fullmatch(r"[+]?\d+", text):
        if int(text) < 1:
            raise ValueError(expected)
        return int(text)
    try:
        share = float(text)
    except ValueError:
        raise ValueError(expected) from None
    if not 0 < share < 1:
        raise ValueError(expected)
    return share


def _read_tokens(text: str) -> int:
    found = re.fullmatch(r"\+?(\d+(?:\.\d+)?)([kmb]?)", text.lower())
    tokens = Decimal(found[1]) * _TOKENS[found[2]] if found else Decimal(0)
    if tokens < 1 or tokens != tokens.to_integral_value():
        raise ValueError("expected an integer of at least 1, or a number with K, M or B, such as 50M")
    return int(tokens)


def shorten_tokens(tokens: int) -> str:
    """Return a budget of tokens as short as it can be written: 50m, 2500k, 1234."""
    letter = next((letter for letter in ("b", "m", "k") if tokens % _TOKENS[letter] == 0), "")
    return f"{tokens // _TOKENS[letter]}{letter}"


def _range_faults(values: Mapping[str, Any], keys: Mapping[str, Key], function: Any) -> list[str]:
    return [
        f"{name}: {value!r} is not allowed; expected {allowed.text}."
        for name, value in values.items()
        if (allowed := keys[name].setting.allowed) is not None
        and not allowed.allows(value)
        and not (name == "mig_method" and function is not None)
    ]


def _rule_faults(values: Mapping[str, Any], *, training: bool) -> list[str]:
    """Find what is wrong with keys together."""
    if "mig_num_samples" not in values and "mig_num_tokens" not in values:
        return [
            "mig_num_samples is missing; set it to the number of rows to choose, or a share in (0, 1); or set "
            "mig_num_tokens."
        ]
    faults = []
    if "mig_num_samples" in values and "mig_num_tokens" in values:
        faults.append("mig_num_samples and mig_num_tokens are both set; the budget is one of them.")
    if values.get("mig_enabled") is False:
        faults.append("mig_enabled: false; nothing is selected. Remove the key, or set it to true.")
    unit = "mig_num_samples" if "mig_num_samples" in values else "mig_num_tokens"
    many = "," in values[unit]
    if many and training:
        faults.append(
            f"{unit}: {values[unit]!r} is a list; training takes one budget. Lists are for `mig-selector select`."
        )
    if "mig_num_tokens" in values and values.get("mig_val_from", "chosen") != "chosen":
        faults.append("mig_val_from: rest counts rows; set mig_num_samples in place of mig_num_tokens.")
    if "mig_label_vocabulary" in values and values.get("mig_min_label_count", 1) != 1:
        faults.append(
            f"mig_min_label_count: {values['mig_min_label_count']} together with mig_label_vocabulary; "
            "a vocabulary already says which labels count. Leave one of the two out."
        )
    return [*faults, *_annotation_faults(values), *_name_faults(values.get("mig_dataset_name"), many=many)]


def _annotation_faults(values: Mapping[str, Any]) -> list[str]:
    faults = []
    if "mig_label_vocabulary" in values and values.get("mig_tagger") == "clusters":
        faults.append(
            "mig_tagger: clusters finds labels of its own, none of which is in mig_label_vocabulary; leave one of the "
            "two out, or set mig_tagger: vocabulary."
        )
    if values.get("mig_retag") and "mig_tagger" not in values and "mig_sidecar" not in values:
        faults.append("mig_retag: true, but nothing gives other labels; set mig_tagger or mig_sidecar too.")
    if "mig_score" in values and "mig_scorer" in values:
        faults.append("mig_score and mig_scorer both say what the score of a row is; leave one of the two out.")
    if values.get("mig_scorer") == "reward" and values.get("mig_score_scale", "none") == "none":
        faults.append(
            "mig_scorer: reward gives scores of either sign, but a score must be 0 or more; set mig_score_scale: "
            "rank, which suits any reward model, or sigmoid or minmax."
        )
    return faults


def _name_faults(name: str | None, *, many: bool) -> list[str]:
    if name is None:
        return []
    if many and BUDGET_PLACEHOLDER not in name:
        return [f"mig_dataset_name: {name!r} names one dataset; with several budgets it must hold {{budget}}."]
    if not NAME_PATTERN.fullmatch(name.replace(BUDGET_PLACEHOLDER, "0")):
        return [f"mig_dataset_name: {name!r} is not allowed; 1 to 128 letters, digits, '_', '.', '+' or '-'."]
    return []
