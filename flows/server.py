"""Prefect's server for one flow: `python -m flows.server`, started by `temporary_server`.

It serves on the listening socket that it is given as its standard input, which stays when it dies.
It starts while the flow still imports Prefect, which alone knows whether a server runs elsewhere.
So it looks, too, and ends at once where none is wanted.
"""

import gc
import os
import socket
import sys

# What Prefect gives its own temporary server: no pages, and no services for other clients.
os.environ |= {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

from flows.temporary_server import wanted

FAILED = 3  # exit code of a server that could not start, as uvicorn's own command has it


def serve(listening: socket.socket) -> None:
    """Serve until it is told to end."""
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()
    gc.enable()
    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    if not server.started:
        sys.exit(FAILED)


if __name__ == "__main__":
    gc.disable()  # while it imports, see `flows`
    if wanted():
        serve(socket.socket(fileno=sys.stdin.fileno()))
