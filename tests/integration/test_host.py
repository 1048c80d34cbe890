import re
import tomllib

import llamafactory
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support import ROOT

from mig_selector.errors import HostError
from mig_selector.integration.host import NEWEST_TESTED, check_version, supported_versions


def test_the_supported_range_is_the_one_that_the_package_is_installed_with():
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [supported_versions()] == [
        requirement.specifier for requirement in map(Requirement, lines) if requirement.name == "llamafactory"
    ]


TESTED = ["0.9.3", "0.9.5", "0.9.5.post1", "0.9.6.dev0"]


@pytest.mark.parametrize(
    ("version", "is_tested"), [*((version, True) for version in TESTED), ("0.9.6", False), ("0.9.10", False)]
)
def test_versions_in_the_range_are_accepted_later_than_tested_ones_with_a_warning(
    monkeypatch, caplog, version, is_tested
):
    monkeypatch.setattr(llamafactory, "__version__", version)
    check_version()
    warning = (
        f"LLaMA-Factory {version} is installed, which mig_selector was not tested with; "
        "the newest tested version is 0.9.6.dev0"
    )
    assert caplog.messages == ([] if is_tested else [warning])


def test_pages_scripts_and_code_agree_on_the_versions():
    """The versions that the script tests by default, and main, are those that all pages call tested."""
    script = (ROOT / "scripts" / "test_versions.sh").read_text()
    releases = re.search(r"set -- ([\d. ]+) newest", script)[1].split()
    assert all(Version(release) < Version(NEWEST_TESTED) for release in releases)
    tested = f"{', '.join(releases)} and main ({NEWEST_TESTED})"
    assert f"Tested with {tested}." in (ROOT / "pyproject.toml").read_text()
    manual = (ROOT / "yaml_configs" / "README.md").read_text()
    assert f"| {', '.join(releases)} | tested |" in manual
    assert f"| main, {NEWEST_TESTED} | tested at commit" in manual
    limits = {specifier.operator: specifier.version for specifier in supported_versions()}
    assert limits == {">=": releases[0], "<": "0.10"}
    assert f"| later than {NEWEST_TESTED}, below {limits['<']} | used, with a warning" in manual
    assert f"| below {releases[0]}, or {limits['<']} and later | refused" in manual
    readme = " ".join((ROOT / "README.md").read_text().split())
    *others, default = releases
    assert f"This brings LLaMA-Factory {default} and" in readme
    assert f"LLaMA-Factory {', '.join(others)} and main ({NEWEST_TESTED}) are tested too" in readme


@pytest.mark.parametrize("version", ["0.8.3", "0.9.2", "0.9.3.dev0", "0.10.0.dev0", "0.10.0", "1.0"])
def test_other_versions_are_refused_with_one_message(monkeypatch, version):
    monkeypatch.setattr(llamafactory, "__version__", version)
    with pytest.raises(HostError) as caught:
        check_version()
    assert str(caught.value) == (
        f"LLaMA-Factory {version} is installed, but mig_selector supports llamafactory<0.10,>=0.9.3 only; "
        "`pip install 'llamafactory<0.10,>=0.9.3'`, or remove the mig_ keys."
    )
