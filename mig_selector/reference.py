"""Help texts and the reference of keys, made from the declarations of the keys.

python -m mig_selector.reference > yaml_configs/KEYS.md
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import textwrap
from typing import Any

from mig_selector.arguments import all_keys
from mig_selector.settings import Key


_WIDTH = 100
_INTRODUCTION = """\
# Keys

Every key goes into the YAML that LLaMA-Factory trains with, beside its own keys, or after it on the command line as
`key=value`. Unknown keys are refused. This page is generated from the code: `python -m mig_selector.reference`.

*Selects again* says whether a change of the value can change which rows are chosen: then they are selected again. The
other keys say where things are kept and how the work is done. A key without effect on a selection (one of another
method, for example) never makes it select again.
"""


def render_markdown() -> str:
    """Return the reference of all keys as a Markdown page."""
    lines = [_INTRODUCTION]
    for group, keys in _by_group():
        lines += [f"## {group}", "", "| key | default | values | selects again | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{key.name}` | {_default(key, code=True)} | {key.values} | {'yes' if key.setting.decides else 'no'} "
            f"| {key.setting.help} |"
            for key in keys
        ]
        lines.append("")
    return "\n".join(lines)


def render_help() -> str:
    """Return the keys with their defaults, values and meanings, for a terminal."""
    lines = []
    for group, keys in _by_group():
        lines += [f"{group}:"]
        for key in keys:
            lines += textwrap.wrap(
                f"{key.name} ({_default(key, code=False)}): {key.values}",
                _WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
            )
            lines += textwrap.wrap(key.setting.help, _WIDTH, initial_indent="      ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines)


def keys_as_dataclass() -> type:
    """Return all keys as a dataclass with help texts, as HfArgumentParser reads them."""
    fields: list[Any] = [
        (key.name, key.kind, dataclasses.field(default=key.default, metadata={"help": key.setting.help}))
        for key in all_keys().values()
    ]
    return dataclasses.make_dataclass("MigArguments", fields)


def _by_group() -> list[tuple[str, list[Key]]]:
    """Return the groups with their keys, a group for all that several methods share last but for the methods."""
    keys = sorted(all_keys().values(), key=lambda key: key.group.startswith("Method "))
    return [(group, list(members)) for group, members in itertools.groupby(keys, lambda key: key.group)]


def _default(key: Key, *, code: bool) -> str:
    if key.default == "":
        return "this or mig_num_tokens"
    if key.default is None:
        return "none"
    text = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
    return f"`{text}`" if code else f"default {text}"


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
