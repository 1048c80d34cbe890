"""The import finder that passes the host's modules to the hook, on a small host of a few lines."""

import json

import pytest
from support import ROOT, run_command


HOST = """
import os
if "FAIL" in os.environ:
    raise ImportError("a package is missing")
def run_exp(args=None, callbacks=None):
    return "all rows"
"""

WAYS = {
    "import": "import llamafactory.train.tuner as tuner",
    "asked for first": """
import importlib.util
assert importlib.util.find_spec("llamafactory.train.tuner") is not None
assert importlib.util.find_spec("llamafactory.train.tuner") is not None
import llamafactory.train.tuner as tuner
""",
    "imported by hand from its spec": """
import importlib.util
spec = importlib.util.find_spec("llamafactory.train.tuner")
tuner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tuner)
""",
    "a first import that failed": """
import os
os.environ["FAIL"] = "1"
try:
    import llamafactory.train.tuner
except ImportError:
    del os.environ["FAIL"]
import llamafactory.train.tuner as tuner
""",
    "reload": """
import importlib
import llamafactory.train.tuner as tuner
for _ in range(2):
    assert importlib.reload(tuner) is tuner
""",
    "removed and imported again": """
import sys
import llamafactory.train.tuner
del sys.modules["llamafactory.train.tuner"]
import importlib
tuner = importlib.import_module("llamafactory.train.tuner")
""",
    "imported before the hook, then reload": """
import importlib, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_HostFinder"]
import llamafactory.train.tuner as tuner
assert not hasattr(tuner.run_exp, "is_mig_selector")
import mig_selector._autoload
mig_selector._autoload.start()
mig_selector._autoload.start()
assert tuner.run_exp.is_mig_selector
importlib.reload(tuner)
""",
    "beside another finder that asks all others": """
import importlib.util, sys
class Other:
    asking = False
    def find_spec(self, name, path=None, target=None):
        if self.asking or name != "llamafactory.train.tuner":
            return None
        self.asking = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.asking = False
sys.meta_path.insert(0, Other())
sys.meta_path.append(Other())
import llamafactory.train.tuner as tuner
""",
}
CHECK = """
import inspect
assert tuner.run_exp.is_mig_selector, "the hook is lost"
assert not hasattr(inspect.unwrap(tuner.run_exp), "is_mig_selector")
assert inspect.unwrap(tuner.run_exp) is tuner.run_exp.__wrapped__, "wrapped twice"
assert tuner.run_exp({}) == "all rows"
"""


@pytest.fixture(params=["folder", "zip file"])
def host(request, tmp_path):
    """What to put on the path to import a small `llamafactory`."""
    folder = tmp_path / "host"
    (folder / "llamafactory" / "train").mkdir(parents=True)
    (folder / "llamafactory" / "__init__.py").write_text('__version__ = "0.9.4"\n')
    (folder / "llamafactory" / "train" / "__init__.py").write_text("")
    (folder / "llamafactory" / "train" / "tuner.py").write_text(HOST)
    if request.param == "folder":
        return folder
    program = "import shutil, sys; shutil.make_archive(sys.argv[1], 'zip', sys.argv[1])"
    assert run_command("python", "-c", program, folder).returncode == 0
    return folder.with_suffix(".zip")


def run(host, program):
    start = f"import sys; sys.path[:0] = {json.dumps([str(ROOT), str(host)])}; import mig_selector._autoload\n"
    return run_command("python", "-I", "-S", "-c", start + program)


@pytest.mark.parametrize("way", WAYS)
def test_the_hook_holds_however_the_trainer_is_imported(host, way):
    done = run(host, WAYS[way] + CHECK)
    assert done.returncode == 0, done.stderr


def test_a_module_that_does_not_exist_is_still_missing(tmp_path):
    done = run(tmp_path, "import importlib.util; print(importlib.util.find_spec('llamafactory.train.tuner'))")
    assert "ModuleNotFoundError: No module named 'llamafactory'" in done.stderr
