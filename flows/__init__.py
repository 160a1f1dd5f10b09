"""What happens in which order."""

import atexit
import gc
import os
import sys
from types import TracebackType

from conf import telemetry
from flows.loopback import exempted
from trainer.lean import only_tokenizers


def _no_trace_of_ctrl_c(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Where a program was as it imported, for seconds, says nothing to who interrupts it."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _no_trace_of_ctrl_c

# Before Prefect is imported anywhere: it reads these once.
telemetry.switch_off()
os.environ.update(exempted(os.environ))
# Its own limit of 20 s for the temporary server is too short on a busy laptop.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")


PROGRAMS = ("data", "evaluate", "pipeline", "report", "study", "train_stage")
"""What `python -m flows.NAME` runs as a flow, see `flows.terminal`."""


def _program() -> str:
    """The flow that Python was started for and that it is about to import, or "" for none."""
    started = sys.argv[:1] == ["-m"]
    words = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if started else []
    name = words[0].removeprefix("flows.") if words else ""
    return name if name in PROGRAMS else ""


if _program():
    gc.disable()  # until `terminal.run`: what is imported stays, to look through it takes long
    atexit.register(gc.freeze)  # and longer to take it apart in the end
    only_tokenizers()
    if not {"-h", "--help"} & set(sys.orig_argv) and not os.environ.get("PREFECT_API_URL"):
        from flows import temporary_server

        temporary_server.begin_early()  # it needs as long as all that is imported here
