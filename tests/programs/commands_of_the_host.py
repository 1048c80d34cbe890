"""Run several commands of LLaMA-Factory, whose heavy imports are done once.

Takes JSON: a list of commands, each a list of words and what is added to its environment. Each command is a forked
process, which goes on as the installed script would; the module that the hook waits for is not imported before. The
last line of stdout is JSON: exit code, stdout and stderr of each command.
"""

import json
import os
import sys
import tempfile
from importlib.metadata import entry_points


def run(words, environment):
    """Run one command; return its exit code, stdout and stderr."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        child = os.fork()
        if child == 0:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            os.environ.update(environment)
            sys.argv = words
            [script] = entry_points(group="console_scripts", name=words[0])
            sys.exit(script.load()())
        _, status = os.waitpid(child, 0)
        stdout.seek(0)
        stderr.seek(0)
        return [os.waitstatus_to_exitcode(status), stdout.read(), stderr.read()]


if __name__ == "__main__":
    import llamafactory.data
    import llamafactory.hparams  # noqa: F401

    assert "llamafactory.train.tuner" not in sys.modules
    ends = [run(words, environment) for words, environment in json.loads(sys.argv[1])]
    print(json.dumps(ends))
