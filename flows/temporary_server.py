"""The server that Prefect starts for one process, where none is running."""

import subprocess

from prefect.server.api.server import SubprocessASGIServer

from trainer.process import how_it_ended, under_guard, with_our_modules

SERVERS = 3  # that may die as they start, before the flow gives up
PORT_TAKEN = 3  # uvicorn's exit code, after which Prefect starts another server at once


class Server(subprocess.Popen):
    """The server's process, of which another is started where it died as it started.

    Prefect would wait for its answer all the same, for as long as a server may take to start.

    Raises:
        RuntimeError: when Prefect looks at it: it is one too many that died.
    """

    died = 0
    ending = False

    def poll(self) -> int | None:
        """None while it runs, else what makes Prefect start another."""
        code = super().poll()
        if code is None or self.ending:
            return code
        Server.died += 1
        if Server.died >= SERVERS:
            raise RuntimeError(
                f"Prefect's temporary server {how_it_ended(code if code >= 0 else 128 - code)} "
                f"as it started, {SERVERS} times\n\nhint: `prefect server start` in another "
                "terminal may say why; where it runs, set PREFECT_API_URL to its address"
            )
        return PORT_TAKEN

    def terminate(self) -> None:
        """Tell it to end."""
        self.ending = True
        super().terminate()


def keep() -> None:
    """Start Prefect's temporary server under a guard, in a process group of its own.

    Killed outright, this process stops no server, which would then run for ever. And a terminal
    sends Ctrl-C to the whole group: the server would end at once, and the flow would then wait for
    minutes to tell it that it was interrupted.
    """
    start = SubprocessASGIServer._run_uvicorn_command
    popen = subprocess.Popen

    def guarded(args: list[str], env: dict[str, str]) -> subprocess.Popen:
        environment = with_our_modules(env)
        return Server([*under_guard(), *args], env=environment, process_group=0)

    def start_apart(server: SubprocessASGIServer) -> subprocess.Popen:
        subprocess.Popen = guarded
        try:
            return start(server)
        finally:
            subprocess.Popen = popen

    SubprocessASGIServer._run_uvicorn_command = start_apart
