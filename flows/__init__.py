"""What happens in which order."""

import os
import sys

from conf import telemetry

# Before Prefect is imported anywhere: it reads these once.
telemetry.switch_off()
# Its own limit of 20 s for the temporary server is too short on a busy laptop.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")


PROGRAMS = ("data", "evaluate", "pipeline", "report", "study", "train_stage")
"""What `python -m flows.NAME` runs as a flow, see `flows.terminal`."""


def _asked_for() -> str:
    """The flow that Python was started for and that it is about to import, or "" for none."""
    started = sys.argv[:1] == ["-m"] and not {"-h", "--help"} & set(sys.orig_argv)
    words = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if started else []
    name = words[0].removeprefix("flows.") if words else ""
    return name if name in PROGRAMS else ""


if _asked_for() and not os.environ.get("PREFECT_API_URL"):
    from flows import temporary_server

    temporary_server.begin_early()  # it needs as long as all that is imported here
