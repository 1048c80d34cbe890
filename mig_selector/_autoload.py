"""Imported by Python at every start, through ``mig_selector.pth``; uses very little, and of the standard library only.

It registers a meta path finder. When one of two modules of LLaMA-Factory is imported, the finder lets the real loader
execute the module and then passes it to ``mig_selector.hook``. A program that never imports LLaMA-Factory's trainer
pays one set lookup for each new module. (Annotations are strings here because importing ``__future__`` would be a
quarter of the cost of this module.)
"""

import sys


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_INSTALLERS = {
    "llamafactory.train.tuner": "install",
    "llamafactory.v1.config.arg_parser": "install_v1_guard",
}
"""Module of the host -> function of ``mig_selector.hook`` that is called with it."""


class _HostFinder:
    """Meta path finder that handles each of the host's modules once."""

    def __init__(self) -> None:
        """Handle all modules in `_INSTALLERS`."""
        self._unseen = set(_INSTALLERS)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of a module of the host with a wrapped loader; None for every other module."""
        if name not in self._unseen:
            return None
        self._unseen.remove(name)  # find_spec below calls this finder again
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            run_module(module)
            # After the module was executed: only now does it have the functions that are to be wrapped.
            _install_hook(name, module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _install_hook(name: str, module: "ModuleType") -> None:
    """Wrap the functions of a module of the host that has been executed."""
    from mig_selector import hook

    getattr(hook, _INSTALLERS[name])(module)


def is_disabled() -> bool:
    """Whether ``MIG_SELECTOR_DISABLE`` switches the selection off; the ``mig_`` keys are then kept from the host."""
    import os

    return os.environ.get("MIG_SELECTOR_DISABLE", "").lower() in {"1", "true", "y", "yes"}


def start() -> None:
    """Register the finder, and hook modules that are already imported; a second call changes nothing."""
    for name in _INSTALLERS:
        if name in sys.modules:
            _install_hook(name, sys.modules[name])
    if not any(type(finder) is _HostFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


start()
