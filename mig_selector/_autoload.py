"""What Python imports at every start, by way of ``mig_selector.pth``: standard library only, and very little of it.

It registers a finder. When one of two modules of LLaMA-Factory is imported, and only then, the finder lets the real
loader do its work and hands the finished module to ``mig_selector.hook``. A program that never imports LLaMA-Factory's
trainer pays for one look into a set per import that Python has to search for. (Annotations are texts here: the module
``__future__`` would have to be loaded, a quarter of the cost.)
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
"""What ``mig_selector.hook`` does with a module of the host."""


class _HostFinder:
    """Meta path finder that sees each of the host's modules once."""

    def __init__(self) -> None:
        """Wait for all of them."""
        self._awaited = set(_INSTALLERS)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Wrap the loader of a module of the host; stay out of everything else."""
        if name not in self._awaited:
            return None
        self._awaited.remove(name)  # the search below comes by here again
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            run_module(module)
            _install_hook(name, module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _install_hook(name: str, module: "ModuleType") -> None:
    from mig_selector import hook

    getattr(hook, _INSTALLERS[name])(module)


def is_disabled() -> bool:
    """Whether ``MIG_SELECTOR_DISABLE`` switches the plugin off."""
    import os

    return os.environ.get("MIG_SELECTOR_DISABLE", "").lower() in {"1", "true", "y", "yes"}


def start() -> None:
    """Make the hook known to this interpreter; calling it again changes nothing."""
    if is_disabled():
        return
    for name in _INSTALLERS:
        if name in sys.modules:
            _install_hook(name, sys.modules[name])
    if not any(type(finder) is _HostFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


start()
