"""What Python imports at every start, by way of ``mig_selector.pth``: standard library only, and very little of it.

It registers a one-shot finder. When ``llamafactory.train.tuner`` is imported, and only then, the finder lets the real
loader do its work and hands the finished module to ``mig_selector.hook``. A program that never imports LLaMA-Factory's
trainer pays for one attribute lookup per import that Python has to search for. (Annotations are texts here: the module
``__future__`` would have to be loaded, a quarter of the cost.)
"""

import sys


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_HOST_MODULE = "llamafactory.train.tuner"


class _TunerFinder:
    """Meta path finder that sees one module, once."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Wrap the loader of the host's tuner; stay out of everything else."""
        if name != _HOST_MODULE:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            run_module(module)
            _install_hook(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _install_hook(module: "ModuleType") -> None:
    from mig_selector.hook import install

    install(module)


def is_disabled() -> bool:
    """Whether ``MIG_SELECTOR_DISABLE`` switches the plugin off."""
    import os

    return os.environ.get("MIG_SELECTOR_DISABLE", "").lower() in {"1", "true", "y", "yes"}


def start() -> None:
    """Make the hook known to this interpreter; calling it again changes nothing."""
    if is_disabled():
        return
    if _HOST_MODULE in sys.modules:
        _install_hook(sys.modules[_HOST_MODULE])
    elif not any(type(finder) is _TunerFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _TunerFinder())


start()
