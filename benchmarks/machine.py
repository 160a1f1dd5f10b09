"""What a measurement was made on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def about(*packages: str) -> dict[str, object]:
    """Cores, processor, Python, and the versions of packages."""
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": ", ".join(sorted(models)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("math-verify", "sympy", *packages)},
    }
