"""Checks of the installed LLaMA-Factory: its version, and the packages that this launch needs."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mig_selector.errors import HostError


NEWEST_TESTED = "0.9.6.dev0"
"""The newest version that ``scripts/test_versions.sh`` was run with: LLaMA-Factory's main branch at ff6d4d12e."""

logger = logging.getLogger(__name__)


def check_host() -> None:
    """Check before the selection what would otherwise fail, or go wrong silently, after it.

    Raises:
        HostError: The version is not supported, or a package is missing that this launch needs.
    """
    check_version()
    from llamafactory.extras.misc import use_ray
    from llamafactory.extras.packages import is_ray_available

    if use_ray() and not is_ray_available():
        raise HostError(
            "USE_RAY is set, so LLaMA-Factory would train with Ray, but the package ray is not installed; "
            "`pip install ray`, or unset USE_RAY."
        )


def check_version() -> None:
    """Refuse a version of LLaMA-Factory outside the range that this package declares; warn of an untested one in it.

    Raises:
        HostError: The version is outside the range.
    """
    import llamafactory

    found, supported = llamafactory.__version__, supported_versions()
    # prereleases: a development version counts as the release that it precedes.
    if not supported.contains(found, prereleases=True):
        raise HostError(
            f"LLaMA-Factory {found} is installed, but mig_selector supports llamafactory{supported} only; "
            f"`pip install 'llamafactory{supported}'`, or remove the mig_ keys."
        )

    if Version(found) > Version(NEWEST_TESTED):
        logger.warning(
            "LLaMA-Factory %s is installed, which mig_selector was not tested with; the newest tested version is %s",
            found,
            NEWEST_TESTED,
        )


def supported_versions() -> SpecifierSet:
    """Return the versions of LLaMA-Factory in this package's requirements; all if it is not installed."""
    try:
        lines = requires("mig_selector") or []
    except PackageNotFoundError:  # run from the source tree
        lines = []
    requirements = map(Requirement, lines)
    return next((line.specifier for line in requirements if line.name == "llamafactory"), SpecifierSet())
