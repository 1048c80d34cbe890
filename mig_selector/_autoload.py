"""Imported by Python at every start, through ``mig_selector.pth``; uses very little, and of the standard library only.

It registers a meta path finder. When one of two modules of LLaMA-Factory is imported, the finder lets the real loader
execute the module and then passes it to ``mig_selector.hook``. A program that never imports LLaMA-Factory's trainer
pays one dictionary lookup for each new module. (Annotations are strings here because importing ``__future__`` would be
a quarter of the cost of this module.)
"""

import sys


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_INSTALLERS = {
    "llamafactory.train.tuner": "install",
    "llamafactory.v1.config.arg_parser": "install_v1_guard",
}
"""Module of the host -> function of ``mig_selector.hook`` that is called with it."""


class _HostFinder:
    """Meta path finder that passes the host's modules to the hook each time they are executed.

    It keeps no record of what it has seen: a program may ask for the spec without importing, an import may fail and
    be tried again, and ``importlib.reload`` executes a module a second time. Installing twice changes nothing.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec of a module of the host with a wrapped loader; None for every other module."""
        if name not in _INSTALLERS:
            return None
        # Not importlib.util.find_spec: it would call this finder again, and return the old spec for a reload.
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                _wrap_loader(spec.loader)
                return spec
        return None


def _wrap_loader(loader: "Any") -> None:
    """Let a loader pass the host's modules to the hook after it has executed them; other modules are left alone."""
    run_module = getattr(loader, "exec_module", None)
    # A loader may be shared between modules and searches, as that of a zip file is.
    if run_module is None or getattr(run_module, "is_mig_selector", False):
        return

    def exec_module(module: "ModuleType") -> None:
        run_module(module)
        # After the module was executed: only now does it have the functions that are to be wrapped.
        if module.__name__ in _INSTALLERS:
            _install_hook(module.__name__, module)

    exec_module.is_mig_selector = True  # type: ignore[attr-defined]
    loader.exec_module = exec_module


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
