"""What the pages of the repository say about it: links, paths, keys, commands and versions."""

import itertools
import re
import shlex
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support import ROOT

from mig_selector.arguments import all_keys


PAGES = [
    *("README.md", "yaml_configs/README.md", "mig_selector/README.md", "scripts/RESULTS.md"),
    *(".github/CONTRIBUTING.md", ".github/SECURITY.md", ".github/CHANGELOG.md"),
]
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "mig_selector", "yaml_configs", "tests", "scripts"}
NO_KEYS = {"mig_selector", "mig_selections", "mig_selection", "mig_key"}
"""Names of files and folders, and a word that stands for any key."""

every_page = pytest.mark.parametrize("page", PAGES)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def without_blocks(page):
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def links(page):
    """Yield the file and the heading that each link of a page leads to, web pages left out."""
    text = without_blocks(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        if not target.startswith("http"):
            file, _, heading = target.partition("#")
            yield (ROOT / page).parent / file if file else ROOT / page, heading


def anchors(path):
    """The anchors that a Git host makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for path, heading in links(page):
        assert path.exists(), path
        assert not heading or heading in anchors(path), f"{path} has no heading #{heading}"


def test_the_pages_link_to_each_other():
    reached = {path.resolve() for path, _ in links("README.md")}
    assert {(ROOT / page).resolve() for page in PAGES[1:]} <= reached


@every_page
def test_every_key_that_a_page_names_is_one(page):
    known = set(all_keys()) | NO_KEYS
    named = set(re.findall(r"\bmig_[a-z0-9_]*[a-z0-9]", text_of(page)))
    assert named <= known, sorted(named - known)


@every_page
def test_every_path_that_a_page_names_is_there(page):
    pattern = r"(?<![\w/.~>])(?:scripts|tests|yaml_configs|mig_selector)/[\w./]*\w(?![\w./]*[<*])"
    for path in re.findall(pattern, text_of(page)):
        assert (ROOT / path).exists(), f"{page} names {path}"


@every_page
def test_the_commands_that_are_not_run_name_modules_that_exist(page):
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for option, name in itertools.pairwise(words):
            assert option != "-m" or words[0] == "pytest" or find_spec(name), line


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_architecture_page_names_every_room():
    """Its tree is that of the package, and its layers are those of the package's docstring."""
    tree = next(block for block in blocks("mig_selector/README.md", "text") if block.startswith("mig_selector/"))
    named = set(re.findall(r"^  (\w+)(?:\.py|/)", tree, re.MULTILINE))
    package = ROOT / "mig_selector"
    assert named == {path.stem for path in package.iterdir() if path.suffix in {".py", ""}} - {"__pycache__"}
    layers = next(block for block in blocks("mig_selector/README.md", "text") if ">" in block)
    docstring = " ".join((package / "__init__.py").read_text(encoding="utf-8").split())
    assert " ".join(layers.split()) in docstring


def test_the_changelog_names_the_version():
    version = tomllib.loads(text_of("pyproject.toml"))["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", text_of(".github/CHANGELOG.md"), re.MULTILINE)


def test_the_workflow_runs_what_contributors_run():
    [job] = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == [".ci/run"]
    assert "bash scripts/test.sh" in text_of(".ci/run")
    [python] = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert python in text_of("scripts/environment.sh")


def test_the_hooks_before_a_commit_check_what_the_tests_check():
    repositories = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    [local] = [repository for repository in repositories if repository["repo"] == "local"]
    entries = [hook["entry"] for hook in local["hooks"]]
    for command in ("ruff check", "ruff format", "mypy"):
        assert any(entry.startswith(command) for entry in entries)
        assert re.search(rf"^{command}", text_of("scripts/test.sh"), re.MULTILINE)
    assert all(re.fullmatch(r"v[\d.]+", each["rev"]) for each in repositories if each["repo"] != "local")


def test_the_top_level_holds_what_it_may():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {Path(name).parts[0] for name in listed.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
