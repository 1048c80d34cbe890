"""The installed LLaMA-Factory: whether this package works with it, and whether it can do what it was started for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mig_selector.errors import HostError


def check_host() -> None:
    """Refuse what would fail, or do something else, after the selection.

    Raises:
        HostError: The version is not supported, or a package is missing that this launch needs.
    """
    check_version()
    from llamafactory.extras.misc import use_ray
    from llamafactory.extras.packages import is_ray_available

    if use_ray() and not is_ray_available():
        raise HostError(
            "USE_RAY asks LLaMA-Factory to train by Ray, but the package ray is not installed; "
            "`pip install ray`, or unset USE_RAY."
        )


def check_version() -> None:
    """Refuse a version that this package was not tested with.

    Raises:
        HostError: The version is outside the range that this package declares.
    """
    import llamafactory

    found, supported = llamafactory.__version__, supported_versions()
    # A development version belongs to the release it leads to.
    if not supported.contains(found, prereleases=True):
        raise HostError(
            f"LLaMA-Factory {found} is installed, but mig_selector works with llamafactory{supported} only; "
            f"`pip install 'llamafactory{supported}'`, or take the mig_ keys out."
        )


def supported_versions() -> SpecifierSet:
    """Read the range of LLaMA-Factory's versions from this package's own requirements."""
    try:
        lines = requires("mig_selector") or []
    except PackageNotFoundError:  # run from its sources, without being installed
        lines = []
    requirements = map(Requirement, lines)
    return next((line.specifier for line in requirements if line.name == "llamafactory"), SpecifierSet())
