"""The two commands of the README, every other command in it and in the manual, and its Python example."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest
from support import ROOT, run_command


pytestmark = [pytest.mark.llamafactory, pytest.mark.distributed]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = (ROOT / "yaml_configs" / "README.md").read_text(encoding="utf-8")


def commands(page):
    """The lines of a page's bash blocks: comments left out, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in (re.sub(r"(^|\s+)#.*", "", line) for line in lines) if line.strip()]


COMMANDS = list(dict.fromkeys(commands(README) + commands(MANUAL)))
ELSEWHERE = {
    "bash scripts/demo.sh": "run below, in an environment of its own",
    "llamafactory-cli train yaml_configs/demo.yaml": "run by scripts/demo.sh, word for word",
    "bash scripts/test.sh": "what runs this",
    "pip install .": "done by scripts/demo.sh with the demo's extra",
}


@pytest.fixture(scope="module", autouse=True)
def _default_place_of_compiled_code():
    """What users have: the session's folder would hide what is left in the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NUMBA_CACHE_DIR", raising=False)
        yield


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the files in the repository."""
    folder = tmp_path_factory.mktemp("checkout") / "mig_selector"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def demo(checkout):
    """What scripts/demo.sh printed; its environment borrows the packages of this one, so that pip has little to do."""
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {"MIG_SELECTOR_CACHE": str(checkout / "cache"), "HOME": str(checkout)}
    return run_command("bash", checkout / "scripts" / "demo.sh", env=environment, timeout=600)


def test_the_demo_selects_trains_and_says_where_everything_is(demo, checkout):
    assert demo.returncode == 0, demo.stderr[-4000:]
    script = (checkout / "scripts" / "demo.sh").read_text()
    assert 'llamafactory-cli train yaml_configs/demo.yaml "${model_keys[@]}"\n' in script
    assert "tiny-llama) model_keys=() ;;" in script
    assert "read 3,000 rows of demo_pool.jsonl, kept 3,000" in demo.stderr
    assert "Num examples = 200" in demo.stderr
    assert (checkout / "demo" / "output" / "training_loss.png").stat().st_size > 5_000
    assert (checkout / "demo" / "output" / "model.safetensors").exists()
    assert demo.stdout.rstrip().endswith("loss plot:  demo/output/training_loss.png")
    assert "checkpoint: demo/output" in demo.stdout


def test_the_tiny_llama_asks_for_its_pool(tmp_path):
    done = run_command("python", ROOT / "scripts" / "demo" / "make_tiny_llama.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "demo_pool.jsonl is not a file; run this in the root of the repository, or set --pool" in done.stderr


def test_the_readme_names_its_two_commands():
    assert {"bash scripts/demo.sh", "bash scripts/test.sh"} <= set(commands(README))


def exported():
    """Variables that the README exports before its commands."""
    words = [word for line in COMMANDS if line.startswith("export ") for word in line.split()[1:]]
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize(
    "command", [line for line in COMMANDS if line not in ELSEWHERE and not line.startswith("export ")]
)
def test_commands_of_the_readme_run(command, demo, checkout):
    assert demo.returncode == 0, demo.stderr[-4000:]
    environment = {**exported(), "MIG_SELECTOR_CACHE": str(checkout / "cache"), "PYTHONPATH": str(checkout)}
    done = run_command(*shlex.split(command), env=environment, cwd=checkout)
    if "terminate called without an active exception" in done.stderr:  # see scripts/demo.sh
        done = run_command(*shlex.split(command), env=environment, cwd=checkout)
    assert done.returncode == 0, done.stderr[-4000:]


def test_the_python_example_of_the_readme_runs(demo, checkout):
    assert demo.returncode == 0, demo.stderr[-4000:]
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environment = {"MIG_SELECTOR_CACHE": str(checkout / "cache"), "PYTHONPATH": str(checkout)}
    program = f"{example}\nassert len(rows) == len(subset.indices) == 200"
    done = run_command("python", "-c", program, env=environment, cwd=checkout)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "200" in done.stdout


def test_the_rows_train_with_trl_as_the_manual_says(demo, checkout):
    assert demo.returncode == 0, demo.stderr[-4000:]
    [example] = [text for text in re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL) if "trl" in text]
    assert len(example.splitlines()) <= 15
    environment = {"MIG_SELECTOR_CACHE": str(checkout / "cache"), "PYTHONPATH": str(checkout)}
    done = run_command("python", "-c", example, env=environment, cwd=checkout)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"^200 rows, loss \d", done.stdout, re.MULTILINE)


def test_uninstalling_takes_the_hook_away(demo, checkout):
    assert demo.returncode == 0
    site = next((checkout / ".venv" / "lib").glob("python*")) / "site-packages"
    assert (site / "mig_selector.pth").exists()
    done = run_command(checkout / ".venv" / "bin" / "python", "-m", "pip", "uninstall", "--yes", "mig_selector")
    assert done.returncode == 0, done.stderr
    assert list((checkout / "cache" / "kernels").rglob("*.nbi"))
    assert not list(site.glob("mig_selector*"))
    python = checkout / ".venv" / "bin" / "python"
    gone = run_command(python, "-c", "import mig_selector.hook", env={"PYTHONPATH": ""}, cwd=checkout.parent)
    assert "No module named 'mig_selector.hook'" in gone.stderr
