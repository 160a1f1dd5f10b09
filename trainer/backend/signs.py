"""Signs of life within a step: lines in the log, which whoever watches for a stall looks at.

A step of 32,768 rollouts takes hours on eight GPUs, and tells nothing else before it is done.
"""

import time

OFTEN = 300.0  # seconds from one sign to the next, at least


class Signs:
    """Tells of progress, and seldom."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def tell(self, progress: str) -> None:
        """Write a line, unless one was written a short while ago.

        Args:
            progress: What has just been done. A process that stands still must not come here.
        """
        now = time.monotonic()
        if now - self.last >= OFTEN:
            self.last = now
            print(progress, flush=True)
