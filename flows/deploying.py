"""prefect.yaml is put on a server that is watched meanwhile, since it may hang.

Prefect's server on SQLite may come to wait for itself for ever as an automation is written: it
takes connections, and answers nobody (PrefectHQ/prefect#23055). From 3.8.6 on it does not, but
that wants a later fastapi than verl's vLLM.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from flows.daemons import POLL, Daemon
from flows.machine import ROOT, Services

HUNG = 20.0  # seconds that a server may answer nothing
TRIES = 3
LONGEST = 180.0  # seconds that a server which answers may take
LOOK = 1.0  # seconds between looks at the server


def answers(services: Services, daemon: Daemon) -> bool:
    """Whether a service that runs answers now, or soon enough not to count as hung."""
    deadline = time.monotonic() + HUNG
    while not (well := services.healthy(daemon)) and time.monotonic() < deadline:
        time.sleep(POLL)
    return well


def deploy(services: Services, start_again: Callable[[], None]) -> list[str]:
    """Put prefect.yaml on the server, and what its runs need.

    Args:
        services: Those of an output folder.
        start_again: Ends a server that answers nothing any more, and starts it.

    Returns:
        Names of the deployments.

    Raises:
        RuntimeError: it failed, took too long, or the server hung each time.
    """
    for again in range(TRIES):
        if again:
            start_again()
        with subprocess.Popen(
            [sys.executable, "-m", "flows.deployments"],
            cwd=ROOT,
            env=services.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as deploying:
            try:
                said = _said(services, deploying)
            finally:
                if deploying.poll() is None:
                    os.killpg(deploying.pid, signal.SIGKILL)  # what it has started, too
        if said is not None:
            names = re.findall(r"Deployment '([\w-]+/[\w-]+)'", said)
            if deploying.returncode or not names:
                raise RuntimeError(f"prefect.yaml could not be deployed:\n{said}")
            return names
    raise RuntimeError(
        f"found a {services.server.name} that hung {TRIES} times while prefect.yaml was deployed, "
        f"needed one that answers\n\nhint: see {services.server.log}"
    )


def _said(services: Services, deploying: subprocess.Popen[str]) -> str | None:
    """What it printed, in the end; None where the server answers nothing any more."""
    started = answered = time.monotonic()
    while True:
        try:
            return "".join(deploying.communicate(timeout=LOOK))
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now - started > LONGEST:
                raise RuntimeError(
                    f"prefect.yaml was not deployed within {LONGEST:.0f} s\n\n"
                    f"hint: see {services.server.log}"
                ) from None
            if services.healthy(services.server):
                answered = now
            elif now - answered > HUNG:
                return None
