"""Every prompt group qualifies, whatever came of it. Loaded by `benchmarks.streaming`."""

import trainer.backend.plugin  # noqa: F401
from trainer.selection import dapo, speed

speed.informative = dapo.informative = lambda pass_rate, low, high: True
