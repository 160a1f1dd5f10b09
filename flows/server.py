"""Prefect's server for one flow: `python -m flows.server PORT`, started by `temporary_server`.

It starts while the flow still imports Prefect, which alone knows whether a server runs elsewhere.
So it looks, too, and ends at once where none is wanted.
"""

import os
import sys

# What Prefect gives its own temporary server: no pages, and no services for other clients.
os.environ |= {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

from flows.temporary_server import wanted

if __name__ == "__main__" and wanted():
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )
