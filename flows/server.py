"""Prefect's server for one flow: `python -m flows.server PORT`, started by `temporary_server`.

It starts while the flow still imports Prefect, which alone knows whether a server runs elsewhere.
So it looks, too, and ends at once where none is wanted.
"""

import gc
import os
import sys

# What Prefect gives its own temporary server: no pages, and no services for other clients.
os.environ |= {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

from flows.temporary_server import wanted


def serve(port: int) -> None:
    """Serve until it is told to end."""
    import uvicorn
    from prefect.server.api.server import create_app

    gc.freeze()
    gc.enable()
    uvicorn.run(
        create_app,
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    gc.disable()  # while it imports, see `flows`
    if wanted():
        serve(int(sys.argv[1]))
