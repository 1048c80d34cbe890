"""Selects with a broken encoder, and again with a sound one while the first error is still being handled.

torchrun ... select_after_failure.py SETTINGS_JSON BROKEN_ENCODER SOUND_ENCODER
"""

import json
import sys

from mig_selector import MigSelectorError, run_selection
from mig_selector.ranks.world import connect


settings = json.loads(sys.argv[1])
try:
    with connect() as ranks:
        run_selection({**settings, "mig_embedding_model": sys.argv[2]}, ranks)
except MigSelectorError as error:
    with connect() as ranks:
        outcome = run_selection({**settings, "mig_embedding_model": sys.argv[3]}, ranks)[0]
    print(json.dumps({"rank": ranks.rank, "error": str(error), "folder": outcome.folder}), flush=True)
