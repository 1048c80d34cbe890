"""The folder of a study, and study.json in it: the plan as it was fixed, and what was added to it later."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mig_selector.arguments import all_keys
from mig_selector.integration.dataset_info import FILE_NAME
from mig_selector.pipeline.deliver import write_own_dataset_info
from mig_selector.pipeline.write import package_versions
from mig_selector.store.files import locked, read_json, write_json
from mig_selector.store.inventory import STUDY
from mig_selector.study.plan import Plan, with_steps
from mig_selector.study.setup import BUDGET_KEYS, RANDOM, Setup
from mig_selector.study.statistics import ERROR_RATE


def folder_name(fingerprint: str) -> str:
    """Return the name of the folder of a study."""
    return f"study-{fingerprint[:16]}"


def has_studies(output_dir: Path) -> bool:
    """Return whether a study was started in the folder for subsets and studies."""
    return any(output_dir.glob(f"{folder_name('*')}/{STUDY}"))


def study_folder(plan: Plan, output_dir: Path) -> Path:
    """Return the folder of a study, to which more methods and seeds may be added.

    It is that of exactly this plan if there is one, as earlier versions made it. So it is if the folder that may be
    added to has an arm of the same name with other rows.
    """
    shared, own = (output_dir / folder_name(each) for each in (plan.study_fingerprint, plan.fingerprint))
    recorded = _recorded_arms(shared)
    is_taken = any(
        then.get("selection") != now.outcome.fingerprint
        for arm, made in plan.subsets.items()
        for then, now in zip(recorded.get(arm, []), made, strict=False)
    )
    return own if is_taken or (own / STUDY).is_file() else shared


def keep_steps(plan: Plan, folder: Path) -> Plan:
    """Return the plan with as many steps as the study in a folder has: its trainings have been made with them."""
    steps = recorded_steps(folder)
    return plan if steps in (None, plan.lessons[RANDOM][0].steps) else with_steps(plan, steps)


def recorded_steps(folder: Path) -> int | None:
    """Return the steps of each training of the study in a folder; None if there is none."""
    recorded = _recorded_arms(folder).get(RANDOM)
    steps: int | None = recorded[0].get("steps") if recorded else None
    return steps


def _recorded_arms(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the arms in the study.json of a folder; none if there is none."""
    record = read_json(folder / STUDY)
    try:
        return {str(arm): [dict(each) for each in made] for arm, made in record["plan"]["arms"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def record_plan(plan: Plan, folder: Path) -> dict[str, Any]:
    """Write the plan before the first training, and return it; to a plan that is there arms and runs are added.

    The folder is also a `dataset_dir` with the subsets.
    """
    with locked(folder / STUDY):
        known = read_json(folder / STUDY)
        is_known = isinstance(known, dict) and known.get("fingerprint") in (plan.study_fingerprint, plan.fingerprint)
        others = read_json(folder / FILE_NAME) if is_known else None
        write_own_dataset_info(folder, [each.outcome for made in plan.subsets.values() for each in made], others)
        record = {
            **(_extended(known, plan) if is_known else _new_record(plan)),
            "command": study_command(plan.setup),
            "options": _shown_options(plan.setup),
        }
        if record != known:
            write_json(folder / STUDY, record)
        return record


def _new_record(plan: Plan) -> dict[str, Any]:
    return {
        "fingerprint": plan.study_fingerprint,
        "fixed_at": _now(),
        "plan": plan.described,
        "settings": {
            key: value if isinstance(value, str | int | float | bool | list) else str(value)
            for key, value in _given_keys(plan.setup).items()
        },
        "versions": package_versions(),
        "figures": None,
    }


def _extended(record: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Add the arms, draws and runs of a plan that a record lacks."""
    known, described = record["plan"], plan.described
    arms = {arm: made for arm, made in described["arms"].items() if len(made) > len(known["arms"].get(arm, []))}
    runs = [name for name in described["runs"] if name not in known["runs"]]
    if not arms and not runs:
        return record
    all_arms = {**known["arms"], **arms}
    return {
        **record,
        "plan": {
            **known,
            "error_rate_of_each_interval": ERROR_RATE / (len(all_arms) - 1),
            "arms": all_arms,
            "runs": [*known["runs"], *runs],
        },
        "added": [*record.get("added", []), {"at": _now(), "runs": runs}],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def study_command(setup: Setup) -> str:
    """Return the command that does the study, or continues it, from the folder in which it was started."""
    options = setup.options
    methods = ",".join(setup.methods.values()) or RANDOM
    words = ["mig-selector", "study"]
    for key, value in _given_keys(setup).items():
        words += [f"--{key}", _as_word(value)]
    words += ["--methods", methods, "--seeds", str(options.seeds), "--match", options.match]
    if options.learning_rates:
        words += ["--learning-rates", ",".join(f"{rate:g}" for rate in options.learning_rates)]
    if options.holdout is not None:
        words += ["--holdout", f"{options.holdout:g}"]
    return shlex.join([*words, "--source", options.source_column, "--train-command", options.train_command])


def _shown_options(setup: Setup) -> dict[str, Any]:
    """Return the options that were given beside the configuration, defaults filled in, for readers."""
    options = setup.options
    return {
        "--methods": list(setup.methods.values()),
        "--seeds": options.seeds,
        "--match": options.match,
        "--learning-rates": list(options.learning_rates) or "as configured",
        "--holdout": setup.holdout if setup.holdout is not None else "eval_dataset",
        "--source": options.source_column,
        "--train-command": options.train_command,
    }


def _as_word(value: Any) -> str:
    """Return the value of a key as it is written on a command line."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _given_keys(setup: Setup) -> dict[str, Any]:
    """Return the keys that arms share; without those that are not set, and tokens of hubs."""
    keys, budget = all_keys(), setup.budget
    given = {
        **setup.host_settings,
        **{key: budget[key] for key in BUDGET_KEYS if budget[key] != keys[key].default},
        **setup.own_settings,
    }
    return {
        key: value
        for key, value in given.items()
        if value is not None and not key.endswith("_token") and key != "mig_report"
    }
