"""The ``mig_*`` keys: one dataclass, its help texts, and the reading of values that a YAML or a command line gives."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mig_selector.errors import ArgumentError


PREFIX = "mig_"
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.+-]{1,128}")
BUDGET_PLACEHOLDER = "{budget}"


def _key(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class MigArguments:
    """Selection settings, named as in the YAML; build it with `parse_arguments`, which checks every value."""

    mig_num_samples: str = _key(
        "", "Rows to choose: an integer, or a share of the pool in (0, 1). Setting it switches the selection on."
    )
    mig_pool: str | None = _key(
        None, "Which of the names in `dataset` form the pool (comma-separated); the others are trained on whole."
    )
    mig_method: str = _key(
        "mig",
        "Selection method: mig, random, zip, ifd, instag, deita, car, qdit, longest, top_score, or one of your own "
        "as package.module.function.",
    )
    mig_labels: str | None = _key(
        None,
        "Where a row's labels stand: a dotted path to a list of strings; default annotation.instag.content. Once set, "
        "a row must have labels whatever the method.",
    )
    mig_score: str | None = _key(
        None,
        "Quality of a row: deita (quality x complexity of its turns), ifd, response_tokens, num_labels, constant, or "
        "a dotted path to a number or a list of numbers; default deita, ifd for ifd, response_tokens for longest. "
        "Once set, a row must have that score whatever the method.",
    )
    mig_deita_turns: Literal["mean", "sum"] | None = _key(
        None, "How deita joins the turns of a row; default sum for the method deita, mean for the others."
    )
    mig_label_vocabulary: str | None = _key(None, "JSON list or text file (one a line) of the labels that count.")
    mig_min_label_count: int = _key(2, "Without a vocabulary: labels seen in fewer rows are dropped.")
    mig_embedding_model: str = _key(
        "intfloat/e5-mistral-7b-instruct", "Sentence-transformers model that embeds the labels: hub id or folder."
    )
    mig_embedding_batch_size: int = _key(64, "Labels embedded at once on each rank.")
    mig_embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _key(
        "auto", "Precision of all encoders and of the IFD model: auto is bfloat16 on a GPU and float32 on a CPU."
    )
    mig_label_embeddings: str | None = _key(
        None, "An .npz file with `labels` (L,) and `embeddings` (L, D): then no encoder is loaded."
    )
    mig_edge_threshold: float = _key(0.9, "Cosine similarity from which two labels share an edge, in (0, 1] (Eq. 3).")
    mig_propagation_weight: float = _key(1.0, "Weight of edges against a label's own 1, from 0 on (alpha, Eq. 6).")
    mig_phi: Literal["pow", "exp"] = _key("pow", "Concave function of the information at a label (Eq. 12, 13).")
    mig_phi_exponent: float = _key(0.8, "Exponent b of pow: (x + a)^b, in (0, 1].")
    mig_phi_offset: float = _key(1e-6, "Offset a of pow: (x + a)^b, above 0.")
    mig_phi_rate: float = _key(1.0, "Rate c of exp: 1 - exp(-c x), above 0.")
    mig_gain: Literal["gradient", "marginal"] = _key(
        "gradient", "Greedy rule: gradient as published (Eq. 11), or the exact marginal gain (Eq. 9)."
    )
    mig_normalize: bool = _key(False, "Divide a row's score by the number of labels that it names.")
    mig_on_bad_row: Literal["error", "skip"] = _key(
        "error", "At an unreadable row: error stops and names file and line, skip counts and lists it."
    )
    mig_dataset_name: str | None = _key(
        None, "Name of the new dataset_info.json entry; default <pool>_<method>_<budget>."
    )
    mig_output_dir: str | None = _key(None, "Where subsets are kept; default <dataset_dir>/mig_selections.")
    mig_cache_dir: str | None = _key(
        None,
        "Where label vectors, content hashes and what was read of pools are kept; default $MIG_SELECTOR_CACHE or "
        "~/.cache/mig_selector, where compiled code lies in any case.",
    )
    mig_overwrite: bool = _key(False, "Select again although a valid subset exists.")
    mig_report: Literal["html", "none"] = _key("html", "Accepted for reports to come; writes nothing yet.")
    mig_seed: int = _key(42, "Seed of methods that draw.")
    mig_fill: Literal["error", "top_score"] = _key(
        "error",
        "Where a method yields fewer rows than asked for: error, or the remaining rows by score, then by place.",
    )
    mig_row_embeddings: str | None = _key(
        None, "An .npy file with a vector for every row of the pool, in order, (N, D): then no row is embedded."
    )
    mig_row_embedding_model: str | None = _key(
        None,
        "Model that embeds rows: hub id or folder; default mistralai/Mistral-7B-v0.1 for deita, "
        "sentence-transformers/all-mpnet-base-v2 for car and qdit.",
    )
    mig_turns: Literal["all", "first", "last"] = _key(
        "all",
        "What counts as question and answer of a conversation, for embeddings, IFD and length: all turns, the first "
        "question and its answer, or the last answer and all before it.",
    )
    mig_ifd_model: str | None = _key(
        None,
        "Causal language model that computes IFD (hub id or folder, such as gpt2); without it IFD is read from "
        "ifd_score.content.",
    )
    mig_ifd_max_tokens: int = _key(1024, "Tokens of a row that the IFD model reads.")
    mig_ifd_filter: Literal["mig", "superfiltering"] = _key(
        "mig", "Which IFD may be chosen: mig from 0 to 1, both included; superfiltering below 1."
    )
    mig_tokenizer: str | None = _key(
        None, "Tokenizer that counts response_tokens: hub id or folder; default model_name_or_path."
    )
    mig_deita_threshold: float = _key(
        0.9, "deita: a row is left out if its cosine with a chosen one is above this, in [-1, 1]."
    )
    mig_qdit_alpha: float = _key(0.7, "qdit: weight of quality against diversity, in [0, 1].")
    mig_qdit_scale: Literal["none", "mean", "minmax"] = _key(
        "none",
        "qdit: none adds quality to the sum of similarities as published, mean to their mean, minmax likewise with "
        "quality scaled to [0, 1].",
    )
    mig_qdit_sample: int = _key(
        0, "qdit: rows of a random sample by which diversity is measured, for large pools; 0 measures it by all rows."
    )
    mig_car_ratio: str = _key("1000:161", "car: rows chosen by score against rows chosen as best of their cluster.")
    mig_iqs: str = _key("annotation.CaR", "car: where a row's instruction quality score stands, a dotted path.")
    mig_zip_k1: int = _key(10_000, "zip: candidates looked at again in each round.")
    mig_zip_k2: int = _key(200, "zip: candidates kept of them.")
    mig_zip_k3: int = _key(100, "zip: rows chosen in each round.")

    @property
    def budgets(self) -> tuple[int | float, ...]:
        """The budgets in the order given: an integer is a number of rows, a float a share of the kept rows."""
        return tuple(_read_budget(text) for text in _split(self.mig_num_samples))

    @property
    def pool_names(self) -> tuple[str, ...] | None:
        """Names that form the pool, or None where every name in `dataset` does."""
        return None if self.mig_pool is None else tuple(_split(self.mig_pool))

    @property
    def cache_dir(self) -> Path:
        """Absolute path of the cache."""
        return Path(self.mig_cache_dir).expanduser().absolute() if self.mig_cache_dir else default_cache_dir()


_FIELDS = {item.name: item for item in dataclasses.fields(MigArguments)}
_TYPES = typing.get_type_hints(MigArguments)
_LISTS = {"mig_num_samples", "mig_pool"}


def default_cache_dir() -> Path:
    """Return the absolute path of the cache where no key names another.

    Raises:
        RuntimeError: It would lie in a home, and this user has none.
    """
    return Path(os.environ.get("MIG_SELECTOR_CACHE") or "~/.cache/mig_selector").expanduser().absolute()


def split_keys(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a configuration into the host's keys and ours.

    Args:
        settings: A whole configuration, as LLaMA-Factory reads it.

    Returns:
        The host's settings, and those whose key begins with ``mig_``; both in the order given.
    """
    ours = {key: value for key, value in settings.items() if str(key).startswith(PREFIX)}
    return {key: value for key, value in settings.items() if key not in ours}, ours


def parse_arguments(settings: Mapping[str, Any], *, training: bool) -> MigArguments:
    """Check the ``mig_*`` keys, all of them, and report every fault at once.

    Args:
        settings: Keys beginning with ``mig_`` and their values, typed (YAML) or as text (command line).
        training: Whether training follows; it then takes exactly one budget.

    Returns:
        The settings with defaults filled in.

    Raises:
        ArgumentError: One or more keys are unknown, missing or out of range; names each key, its value and what is
            allowed.
    """
    faults = [_unknown_key(key) for key in settings if key not in _FIELDS]
    values: dict[str, Any] = {}
    for key, raw in settings.items():
        if key not in _FIELDS or raw is None:
            continue
        try:
            values[key] = _join_list(key, raw) if key in _LISTS else _convert(raw, _TYPES[key])
        except ValueError as error:
            faults.append(f"{key}: {raw!r} is not allowed; {error}.")
    if not faults:
        faults = _range_faults(values, training=training)
    if faults:
        raise ArgumentError("\n".join(faults))
    return MigArguments(**values)


def _unknown_key(key: str) -> str:
    nearest = difflib.get_close_matches(key, _FIELDS, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(_FIELDS)}"
    return f"{key} is not a key of mig_selector; {hint}"


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _join_list(key: str, raw: Any) -> str:
    parts = list(raw) if isinstance(raw, Sequence) and not isinstance(raw, str) else [raw]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        raise ValueError("expected one value, a list or a comma-separated text")
    text = ",".join(str(part) for part in parts)
    if not all(_split(text)):
        raise ValueError("expected no empty item")
    if key == "mig_num_samples":
        for part in _split(text):
            _read_budget(part)
    return text


def _read_budget(text: str) -> int | float:
    expected = "expected an integer of at least 1, or a share of the pool between 0 and 1, both excluded"
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


def _convert(raw: Any, declared: Any) -> Any:
    """Read `raw` as the declared type; a ValueError says what was expected."""
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        declared = next(kind for kind in typing.get_args(declared) if kind is not type(None))
    if typing.get_origin(declared) is Literal:
        allowed = typing.get_args(declared)
        if raw not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}")
        return raw
    return {bool: _to_bool, int: _to_int, float: _to_float, str: _to_text}[declared](raw)


def _to_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(raw).lower() not in known:
        raise ValueError("expected true or false")
    return known[str(raw).lower()]


def _to_int(raw: Any) -> int:
    if isinstance(raw, bool) or not re.fullmatch(r"[+-]?\d+", str(raw)):
        raise ValueError("expected an integer")
    return int(raw)


def _to_float(raw: Any) -> float:
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("expected a number")
    return value


def _to_text(raw: Any) -> str:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float) or str(raw).strip() == "":
        raise ValueError("expected a text")
    return str(raw)


def _is_path(value: str) -> bool:
    return all(value.split("."))


_RANGES: dict[str, tuple[typing.Callable[[Any], bool], str]] = {
    "mig_edge_threshold": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "mig_propagation_weight": (lambda value: value >= 0, "0 or more"),
    "mig_phi_exponent": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "mig_phi_offset": (lambda value: value > 0, "above 0"),
    "mig_phi_rate": (lambda value: value > 0, "above 0"),
    "mig_min_label_count": (lambda value: value >= 1, "1 or more"),
    "mig_embedding_batch_size": (lambda value: value >= 1, "1 or more"),
    "mig_seed": (lambda value: value >= 0, "0 or more"),
    "mig_ifd_max_tokens": (lambda value: value >= 2, "2 or more"),
    "mig_deita_threshold": (lambda value: -1 <= value <= 1, "between -1 and 1"),
    "mig_qdit_alpha": (lambda value: 0 <= value <= 1, "between 0 and 1"),
    "mig_qdit_sample": (lambda value: value >= 0, "0 or more"),
    "mig_car_ratio": (
        lambda value: bool(re.fullmatch(r"\d+:\d+", value)) and any(map(int, value.split(":"))),
        "two numbers of rows with a colon between them, not both 0 (quoted: a YAML reads 1:1 as the number 61)",
    ),
    **dict.fromkeys(("mig_zip_k1", "mig_zip_k2", "mig_zip_k3"), (lambda value: value >= 1, "1 or more")),
    **dict.fromkeys(("mig_labels", "mig_iqs"), (_is_path, "a dotted path without empty parts")),
    "mig_score": (_is_path, "a name or a dotted path without empty parts"),
    "mig_method": (_is_path, "a name or a dotted path without empty parts"),
}


def _range_faults(values: Mapping[str, Any], *, training: bool) -> list[str]:
    faults = [
        f"{key}: {values[key]!r} is out of range; expected {allowed}."
        for key, (is_allowed, allowed) in _RANGES.items()
        if key in values and not is_allowed(values[key])
    ]
    if "mig_num_samples" not in values:
        return [*faults, "mig_num_samples is missing; set it to the number of rows to choose, or a share in (0, 1)."]
    many = "," in values["mig_num_samples"]
    if many and training:
        faults.append(
            f"mig_num_samples: {values['mig_num_samples']!r} is a list; training takes one budget. "
            "Lists are for `mig-selector select`."
        )
    if "mig_label_vocabulary" in values and values.get("mig_min_label_count", 1) != 1:
        faults.append(
            f"mig_min_label_count: {values['mig_min_label_count']} together with mig_label_vocabulary; "
            "a vocabulary already says which labels count. Leave one of the two out."
        )
    return faults + _name_faults(values.get("mig_dataset_name"), many=many)


def _name_faults(name: str | None, *, many: bool) -> list[str]:
    if name is None:
        return []
    if many and BUDGET_PLACEHOLDER not in name:
        return [f"mig_dataset_name: {name!r} names one dataset; with several budgets it must hold {{budget}}."]
    if not NAME_PATTERN.fullmatch(name.replace(BUDGET_PLACEHOLDER, "0")):
        return [f"mig_dataset_name: {name!r} is not allowed; 1 to 128 letters, digits, '_', '.', '+' or '-'."]
    return []
