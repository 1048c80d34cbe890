import tomllib

import llamafactory
import pytest
from packaging.requirements import Requirement
from support import ROOT

from mig_selector.errors import HostError
from mig_selector.integration.host import check_version, supported_versions


def test_the_supported_range_is_the_one_that_the_package_is_installed_with():
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [supported_versions()] == [
        requirement.specifier for requirement in map(Requirement, lines) if requirement.name == "llamafactory"
    ]


@pytest.mark.parametrize("version", ["0.9.3", "0.9.5", "0.9.5.post1", "0.9.6.dev0", "0.9.10"])
def test_releases_in_the_range_and_their_prereleases_are_accepted(monkeypatch, version):
    monkeypatch.setattr(llamafactory, "__version__", version)
    check_version()


@pytest.mark.parametrize("version", ["0.8.3", "0.9.2", "0.9.3.dev0", "0.10.0.dev0", "0.10.0", "1.0"])
def test_other_versions_are_refused_with_one_message(monkeypatch, version):
    monkeypatch.setattr(llamafactory, "__version__", version)
    with pytest.raises(HostError) as caught:
        check_version()
    assert str(caught.value) == (
        f"LLaMA-Factory {version} is installed, but mig_selector supports llamafactory<0.10,>=0.9.3 only; "
        "`pip install 'llamafactory<0.10,>=0.9.3'`, or remove the mig_ keys."
    )
