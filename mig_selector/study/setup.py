"""What a study is asked for, checked before anything is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.errors import ArgumentError, UsageError
from mig_selector.integration.config import HostArguments, Schedule, keys_that_change_rows
from mig_selector.integration.dataset_info import read_dataset_info
from mig_selector.integration.host_settings import find_host_faults
from mig_selector.integration.training import COMMAND
from mig_selector.pipeline.common_rows import measuring_keys, resolve_methods
from mig_selector.pipeline.needs import Needs
from mig_selector.pipeline.site import pool_names
from mig_selector.pipeline.texts import SOURCE


BASE, RANDOM, STRATIFIED = "base", "random", "stratified"
"""Arms that every study has: the model before training, random rows, and random rows of each source in proportion."""
DEFAULT_HOLDOUT = 0.05
FEWEST_DRAWS = 5
"""Random choices that every study trains on at least: how much they differ is what a method has to exceed."""

BUDGET_KEYS = ("mig_num_samples", "mig_num_tokens", "mig_count_tokens")
_NOT_OF_ARMS = (*BUDGET_KEYS, "mig_dataset_name", "mig_overwrite", "mig_val_from", "mig_method", "mig_report")
_MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    methods: Sequence[str] | None = None
    """Beside the arms that every study has; the configuration's, longest and top_score if None."""
    seeds: int = 3
    learning_rates: Sequence[float] = ()
    """The configuration's if empty."""
    match: Literal["tokens", "rows"] = "tokens"
    holdout: float | None = None
    source_column: str = SOURCE
    train_command: str = COMMAND


@dataclass(frozen=True)
class Setup:
    """A study that can be started."""

    options: Options
    host_settings: Mapping[str, Any]
    own_settings: Mapping[str, Any]
    """The ``mig_*`` keys that all arms share: without a method, a budget or a name."""
    budget: MigArguments
    """Names the budget."""
    host: HostArguments
    schedule: Schedule
    needs: Sequence[Needs]
    """Of each method, random first."""

    @property
    def methods(self) -> dict[str, str]:
        """The arms beside those that every study has, and their methods."""
        return {each.method.short_name: each.method.name for each in self.needs[1:]}

    @property
    def planned(self) -> dict[str, int]:
        """The arms, and how often each is trained with each learning rate."""
        seeds = self.options.seeds
        return {
            BASE: 0,
            RANDOM: max(seeds, FEWEST_DRAWS),
            STRATIFIED: seeds,
            **dict.fromkeys(self.methods, seeds),
        }

    @property
    def holdout(self) -> float | None:
        """Share of the pool that is held out; None if `eval_dataset` is."""
        return None if self.host.eval_dataset else self.options.holdout or DEFAULT_HOLDOUT

    def arguments(self, **keys: Any) -> MigArguments:
        """Return the keys of a selection."""
        return parse_arguments({**self.own_settings, **keys}, training=False)

    @property
    def selecting_settings(self) -> dict[str, Any]:
        """The host's keys for a selection that no validation follows."""
        return {key: value for key, value in self.host_settings.items() if key not in ("eval_dataset", "val_size")}

    def measuring_arguments(self) -> MigArguments:
        """Return the keys of a selection that needs what any of the methods needs."""
        return self.arguments(mig_num_samples=1, **measuring_keys(self.own_settings, self.needs))


def set_up(settings: Mapping[str, Any], options: Options, only: Sequence[str] = ()) -> Setup:
    """Check a configuration and the options of a study.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML with which the user trains.
        options: Those of the command.
        only: Arms to do here; all if empty.

    Raises:
        ArgumentError: Something in them is missing, wrong, or cannot be studied; names the key.
        UsageError: The same of an option.
    """
    host_settings, own_settings = split_keys(settings)
    host = HostArguments.read(host_settings)
    budget = parse_arguments(own_settings, training=True)
    shared = {key: value for key, value in own_settings.items() if key not in _NOT_OF_ARMS}
    shared["mig_report"] = "none"
    methods = [name for name in _methods(options, budget) if name != RANDOM]
    needs = resolve_methods({**shared, "mig_num_samples": 1}, host, [RANDOM, *methods])
    option_faults = _option_faults(options, host, needs, counts_tokens=budget.counts_tokens)
    faults = [
        *option_faults,
        *_host_faults(host_settings, host, budget),
        *find_host_faults(host_settings, is_launched=False),
    ]
    if host.schedule is None and not faults:
        faults.append("per_device_train_batch_size, gradient_accumulation_steps: expected integers of at least 1.")
    if faults or host.schedule is None:
        raise (UsageError if option_faults else ArgumentError)("\n".join(faults))
    setup = Setup(options, host_settings, shared, budget, host, host.schedule, needs)
    if unknown := [arm for arm in only if arm not in setup.planned]:
        raise UsageError(f"--only: {', '.join(unknown)} is not an arm; expected some of {', '.join(setup.planned)}.")
    return setup


def _methods(options: Options, budget: MigArguments) -> list[str]:
    if options.methods is not None:
        return list(options.methods)
    return list(dict.fromkeys((budget.mig_method, "longest", "top_score")))


def _option_faults(options: Options, host: HostArguments, needs: Sequence[Needs], *, counts_tokens: bool) -> list[str]:
    faults = []
    if counts_tokens and options.match == "rows":
        faults.append("--match rows: mig_num_tokens is set; set mig_num_samples, or leave --match out.")
    names = [each.method.short_name for each in needs]
    if len(set(names)) != len(names) or {BASE, STRATIFIED} & set(names):
        faults.append(
            f"--methods: {', '.join(names[1:])}: the last parts of the names must differ from each other, and from "
            f"{BASE}, {RANDOM} and {STRATIFIED}, which every study has."
        )
    if options.seeds < 1:
        faults.append(f"--seeds: {options.seeds} is not allowed; expected an integer of at least 1.")
    if any(not rate > 0 for rate in options.learning_rates) or len(set(options.learning_rates)) < len(
        options.learning_rates
    ):
        faults.append("--learning-rates: expected different numbers above 0, with commas between them.")
    if options.holdout is not None and not 0 < options.holdout < 1:
        faults.append(f"--holdout: {options.holdout:g} is not allowed; expected a share of the pool between 0 and 1.")
    if not options.train_command.strip():
        faults.append("--train-command is empty; the default is llamafactory-cli train.")
    if options.holdout is not None and host.eval_dataset:
        faults.append("--holdout: eval_dataset is set, and its rows are held out; leave one of the two out.")
    return faults


def _host_faults(host_settings: Mapping[str, Any], host: HostArguments, budget: MigArguments) -> list[str]:
    """Find what in the configuration keeps arms from being trained alike or measured."""
    needed = {
        "model_name_or_path": host.model_name_or_path,
        "template": host.tokenizing.get("template"),
        "do_train": host.do_train,
    }
    others = [name for name in host.dataset if name not in pool_names(budget, host)]
    rules = (
        (
            int(os.environ.get("WORLD_SIZE", "1")) > 1,
            "a study starts the trainings itself; start it without torchrun.",
        ),
        (
            host.stage != "sft",
            f"stage: {host.stage}; a study measures the loss of answers, so stage must be sft.",
        ),
        (
            host_settings.get("adapter_name_or_path"),
            "adapter_name_or_path: a study trains from a model; merge the adapter into it (llamafactory-cli export), "
            "and name the result in model_name_or_path.",
        ),
        (
            host.tokenized_path,
            "tokenized_path: each arm trains on other rows; remove it.",
        ),
        (
            others,
            f"mig_pool: {', '.join(others)} would be trained on whole in every arm; leave it out of dataset.",
        ),
    )
    return [
        *(f"{key}: a study trains and tokenizes with it; set it." for key, value in needed.items() if not value),
        *(
            f"{key}: it changes which rows a step takes, so steps cannot be equal; remove it."
            for key in keys_that_change_rows(host_settings)
        ),
        *(message for is_wrong, message in rules if is_wrong),
        *_media_faults(host),
    ]


def _media_faults(host: HostArguments) -> Iterator[str]:
    entries = read_dataset_info(host.dataset_dir, host.dataset, host.eval_dataset).entries
    for name in (*host.dataset, *host.eval_dataset):
        if media := [role for role in _MEDIA if role in (entries[name].get("columns") or {})]:
            yield f"dataset {name!r} has {' and '.join(media)}; a study measures text alone."
