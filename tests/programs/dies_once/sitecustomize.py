"""Python imports this at its start if it is on the path: rank 0 dies in the first attempt of an elastic launch.

It dies when the subset is written and registered, but not yet told to the other ranks. FAILED names a file to leave.
"""

import os
import sys
from pathlib import Path


def die_when_recording_the_subset(event, args):
    if event == "os.rename" and Path(str(args[1])).parent.name == "selections":
        Path(os.environ["FAILED"]).touch()
        os._exit(1)


if os.environ.get("RANK") == "0" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    sys.addaudithook(die_when_recording_the_subset)
