"""A stand-in that says where it was imported, and leaves a thread behind as a library would. Runs in ranks only."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from tests.ranks.stand_in import StandIn

threading.Thread(target=threading.Event().wait, daemon=True).start()
(Path(os.environ["GENQUAL_LOGS"]) / f"imported{os.environ['RANK']}").write_text(
    json.dumps(sorted(os.sched_getaffinity(0)))
)


class Early(StandIn):
    """The same answers."""
