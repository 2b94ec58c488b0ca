#!/usr/bin/env python3
"""A custom plugin of node-problem-detector: what the last document of `genqual node` on this node says.

    npd_genqual.py DOCUMENT SECONDS

Runs no check: one would disturb the pods beside it every time. A prolog, an init container or a CronJob writes the
document. Status 0: fit; 1: unfit; 2: unknown, where it is absent, damaged or older than SECONDS. One line on stdout, of
80 characters at most, which becomes the condition's message. The standard library only.
"""

import json
import sys
import time
from datetime import datetime


def said(path: str, oldest: float, now: float) -> tuple[int, str]:
    """The plugin's exit status and message."""
    try:
        with open(path, encoding="utf-8") as stream:  # noqa: PTH123  runs on hosts, by any Python 3
            document = json.load(stream)
        verdict, reasons = document["verdict"], list(document["reasons"])
        age = now - datetime.fromisoformat(document["began"].replace("Z", "+00:00")).timestamp()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return 2, f"no verdict in {path}: {type(error).__name__}"
    if age > oldest:
        return 2, f"the last verdict is {age / 3600:.0f} h old: {verdict}"
    if age < -300.0:
        return 2, "the last verdict is of the future: this node's clock was set back"
    if verdict == "fit" and not reasons:
        return 0, "the last genqual node said fit"
    if verdict == "unfit":
        return 1, "unfit: " + (str(reasons[0]) if reasons else "no reason given")
    return 2, f"no verdict in {path}: it says {verdict!r}"


if __name__ == "__main__":
    status, message = said(sys.argv[1], float(sys.argv[2]), time.time())
    print(message[:80])  # noqa: T201  the answer
    sys.exit(status)
