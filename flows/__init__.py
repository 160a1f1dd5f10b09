"""What happens in which order."""

import os

from conf import telemetry

# Before Prefect is imported anywhere: it reads these once.
telemetry.switch_off()
# Its own limit of 20 s for the temporary server is too short on a busy laptop.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
