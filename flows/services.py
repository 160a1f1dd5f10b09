"""Prefect server, MLflow and a worker on this machine, started and stopped together.

python -m flows.services up [--output outputs] [--prefect-port 4200] [--mlflow-port 5000]
python -m flows.services status [--output outputs]
python -m flows.services down [--output outputs]

Everything listens on loopback only and lies under `<output>/.services`: databases, records, logs.
Runs of the worker write to `<output>/mlflow.db`, as those of a terminal do, and the MLflow server
shows that file: so a run does not depend on the MLflow server being up.
"""

import argparse
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from flows.daemons import Daemon, alive, listeners, owner, started_for, tell, wait_for_end
from flows.deploying import HUNG, answers, deploy
from flows.machine import LAST_PORT, OPTIONS, PORTS, ROOT, SILENCE, Services, answer
from tasks.words import things

DEPLOYED = "prefect.yaml"
START = 180.0  # seconds that a service may take to become healthy
RUNS_END = 9.5  # seconds for running flows to end when told: guards may take nine, beside `_grace`
RUNS_TOLD = 2.0  # for the worker to tell the server that they have ended
TOLD, TOLD_TWICE, KILLED = 2.0, 0.5, 0.5  # for services to end: together at most 15


def up(given: argparse.Namespace) -> int:
    """Start what does not run yet, deploy prefect.yaml, and show a line of health for each.

    Args:
        given: `output`, `prefect_port` and `mlflow_port`, a port None where none was asked for.

    Returns:
        Exit code: 0 all healthy, 1 one does not start and those begun with it end, 2 refused.
    """
    return _told(_up, given)


def down(given: argparse.Namespace) -> int:
    """Stop all three and the worker's runs, whose stages resume when they are run again.

    A trainer has `hardware.stop_grace` to save its last step first, as when its flow is cancelled.

    Args:
        given: `output`.

    Returns:
        Exit code: 0 nothing is left, 1 a process did not end, 2 refused.
    """
    return _told(_down, given)


def status(given: argparse.Namespace) -> int:
    """Show a line of health for each.

    Args:
        given: `output`.

    Returns:
        Exit code: 0 all healthy, 1 not all.
    """
    return _told(_status, given)


def add_to(commands: Any, names: Sequence[str] = ("up", "down")) -> None:
    """Add `up`, `down` and `status` to the subcommands of a command line; each sets `run`."""
    what = {
        "up": (up, "Start Prefect server, MLflow and a worker here, and deploy prefect.yaml"),
        "down": (down, "Stop what up started, and the worker's runs"),
        "status": (status, "Show whether they run and answer"),
    }
    for name in names:
        run, words = what[name]
        command = commands.add_parser(name, help=words, description=f"{words}.")
        command.set_defaults(run=run, prefect_port=None, mlflow_port=None)
        command.add_argument(
            "--output", default="outputs", type=os.path.expanduser, metavar="FOLDER",
            help="output folder (default: outputs)",
        )  # fmt: skip
        for option, default in zip(OPTIONS, PORTS.values(), strict=True) if name == "up" else ():
            command.add_argument(option, type=int, metavar="PORT", help=f"default: {default}")


def _up(services: Services) -> int:
    if not (ROOT / DEPLOYED).is_file():
        raise ValueError(
            f"found no {DEPLOYED} in {ROOT}, needed a clone of the repository: it says what can be "
            "started by name\n\nhint: install the clone with pip install --editable, or start runs "
            "with python -m flows.pipeline"
        )
    _check_ports(services)  # before a folder is made for them
    (services.folder / "prefect").mkdir(parents=True, exist_ok=True)
    with _alone(services.folder):
        _check_ports(services)  # another `up` or `down` may just have changed them
        for daemon in services.servers:
            _end_orphan(services, daemon)
            if daemon.process() and not answers(services, daemon):
                _end_hung(daemon)
        running = [daemon for daemon in services.all if daemon.process()]
        with _ended_where_it_fails([one for one in services.all if one not in running]):
            # They need nothing of each other, so they start together; the worker needs a pool.
            for daemon in services.servers:
                if daemon not in running:
                    _start(services, daemon)
            for daemon in services.servers:
                _show_start(services, daemon, daemon in running)
            names = deploy(services, partial(_start_again, services, services.server))
            # Looked at now: one that was starting ends where its server hangs.
            working = services.worker.process() is not None
            if not working:
                _start(services, services.worker)
            _show_start(services, services.worker, working)
    _show("deployments", ", ".join(names))
    _show("automation", f"a run that shows no sign of life for {SILENCE} s is marked Crashed")
    _show("logs", os.path.relpath(services.folder))
    print(f"\nexport PREFECT_API_URL={services.api}")
    return 0


def _down(services: Services) -> int:
    if not services.folder.is_dir():
        print(f"nothing is running for {services.output}")
        return 0
    started = time.monotonic()
    with _alone(services.folder):
        there = started_for(services.folder)
        runs = _end_runs(services)
        tell([process for daemon in services.all if (process := daemon.process())])
        left = wait_for_end(there, TOLD)
        tell(left)
        left = wait_for_end(started_for(services.folder), TOLD_TWICE)
        tell(left, signal.SIGKILL)
        left = wait_for_end(started_for(services.folder), KILLED)
        for daemon in services.all:
            daemon.forget()
    if left:
        raise RuntimeError(f"still alive: {', '.join(str(process.pid) for process in left)}")
    if not there:
        print(f"nothing is running for {services.output}")
        return 0
    again = "it again and its" if runs == 1 else "them again and their"
    including = f", including {things(runs, 'run')}; start {again} stages resume" if runs else ""
    stopped = things(len(there), "process", "processes")
    print(f"stopped {stopped} in {time.monotonic() - started:.1f} s{including}")
    return 0


def _status(services: Services) -> int:
    healthy = [services.healthy(daemon) for daemon in services.all]
    for daemon, well in zip(services.all, healthy, strict=True):
        process = daemon.process()
        _show_health(services, daemon, "healthy" if well else "no answer" if process else "")
    return 0 if all(healthy) else 1


def _check_ports(services: Services) -> None:
    """Refuse ports that do not exist, that are the same, or that something else listens on."""
    ports = [services.port(daemon) for daemon in services.servers]
    for port, option in zip(ports, OPTIONS, strict=True):
        if not 1 <= port <= LAST_PORT:
            raise ValueError(
                f"found {option} {port}, needed a port from 1 to {LAST_PORT}\n\n"
                f"hint: leave {option} out to take the usual one"
            )
    if ports[0] == ports[1]:
        raise ValueError(
            f"found port {ports[0]} for prefect-server and for mlflow, needed one for each\n\n"
            f"hint: take another port for one of them, as with {_other(OPTIONS[1], ports[1])}"
        )
    for daemon, port, option in zip(services.servers, ports, OPTIONS, strict=True):
        for process in listeners(port):
            whose = owner(process) if process else ""
            if whose == str(services.folder) or (process and not alive(process)):
                continue
            what = f"process {process.pid} ({_words(process):.120})" if process else "another user"
            by = f", started for {Path(whose).parent}" if whose else ""
            raise ValueError(
                f"port {port}, wanted for {daemon.name}, is held by {what}{by}\n\n"
                f"hint: end it, or take another port with {_other(option, port)}"
            )


def _other(option: str, port: int) -> str:
    return f"{option} {port + 1 if port < LAST_PORT else port - 1}"


def _end_orphan(services: Services, daemon: Daemon) -> None:
    """End what a killed service of ours left on its port."""
    if daemon.process() is None:
        there = listeners(services.port(daemon))
        left = [one for one in there if one and owner(one) == str(services.folder)]
        tell(left, signal.SIGKILL)
        wait_for_end(left, KILLED)


@contextmanager
def _ended_where_it_fails(daemons: Sequence[Daemon]) -> Iterator[None]:
    """A block that starts some of these, none of which runs; if it fails, none does after it."""
    before = [daemon.record for daemon in daemons]
    try:
        yield
    except BaseException:  # Ctrl-C, too
        for daemon, record in zip(daemons, before, strict=True):
            if daemon.record != record:
                process = daemon.process()
                _end(daemon, TOLD if process else 0)
                daemon.note(record) if record else daemon.forget()
                _show(daemon.name, "ended again" if process else "has ended")
        raise


def _end(daemon: Daemon, patience: float) -> None:
    """End a service and what it has started."""
    process, there = daemon.process(), daemon.session()
    tell([process] if process else [])
    tell(wait_for_end(there, patience), signal.SIGKILL)
    wait_for_end(there, KILLED)


def _end_hung(daemon: Daemon) -> None:
    _show(daemon.name, f"has answered nothing for {HUNG:.0f} s, and is started again")
    _end(daemon, TOLD)


def _start_again(services: Services, daemon: Daemon) -> None:
    _end_hung(daemon)
    _start(services, daemon)
    _show_start(services, daemon, False)


def _start(services: Services, daemon: Daemon) -> None:
    port = None if daemon is services.worker else services.port(daemon)
    daemon.start(services.command(daemon), services.environment(), ROOT, port)


def _end_runs(services: Services) -> int:
    """Tell the worker's runs to end, those too that begin meanwhile, and see the server told.

    A trainer that saves is waited for, also one that a killed run has left: its guard, told by the
    run or by the run's end, ends it and all it started when its time is over.

    Returns:
        How many there were.
    """
    told: list[psutil.Process] = []
    started, grace = time.monotonic(), 0.0
    while time.monotonic() - started < RUNS_END + grace:
        ours = started_for(services.folder)
        runs = [process for process in ours if "prefect.engine" in _words(process)]
        tell([run for run in runs if run not in told])
        told += [run for run in runs if run not in told]
        saving = max(map(_grace, ours), default=0.0)
        if saving > grace:
            grace = saving
            print(f"trainers save their last step, which may take {grace:.0f} s", flush=True)
        if not runs and not saving:
            break
        time.sleep(0.2)
    deadline = time.monotonic() + RUNS_TOLD
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    while told and time.monotonic() < deadline:
        if answer(f"{services.api}/flow_runs/count", wanted) in ("", "0"):
            break
        time.sleep(0.2)
    return len(told)


def _show_start(services: Services, daemon: Daemon, was_running: bool) -> None:
    seconds = daemon.wait_until(lambda: services.healthy(daemon), START)
    text = "already running, healthy" if was_running else f"healthy in {seconds:.1f} s"
    _show_health(services, daemon, text)


def _show_health(services: Services, daemon: Daemon, text: str) -> None:
    process = daemon.process()
    pid = f"pid {process.pid:<8}" if process else ""
    _show(daemon.name, f"{services.address(daemon):<23} {pid}{text or 'not running'}")


def _show(name: str, text: str) -> None:
    print(f"{name:<15} {text}", flush=True)


def _grace(process: psutil.Process) -> float:
    """Seconds that a trainer's guard gives it to save; 0 for every other process."""
    found = re.search(r" trainer\.guard .*--stop-grace ([\d.]+)", _words(process))
    return float(found[1]) if found else 0.0


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "?"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one `up` or `down` of a folder at a time; the kernel lets go of what a dead one held."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _told(action: Callable[[Services], int], given: argparse.Namespace) -> int:
    asked = {name: port for name in PORTS if (port := getattr(given, name)) is not None}
    try:
        # Resolved: what runs is found by its folder's name, and a link or ".." would be another.
        return action(Services(Path(given.output).resolve(), asked))
    except ValueError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except OSError as error:
        found = f"{error.strerror}: {error.filename}" if error.filename else error
        print(
            f"\nfound {found}, needed a folder to write to\n\nhint: name one with --output",
            file=sys.stderr,
        )
        return 2
    except RuntimeError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """`up`, `down` or `status` from a command line.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m flows.services")
    add_to(parser.add_subparsers(required=True, metavar="COMMAND"), ("up", "down", "status"))
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
