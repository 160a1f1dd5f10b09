"""What happens in which order."""

from conf import telemetry

# Before Prefect is imported anywhere: it reads these once.
telemetry.switch_off()
