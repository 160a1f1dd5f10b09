"""On a run's PYTHONPATH: its clock jumps by as many seconds as the file at FAULTS_CLOCK says."""

import os
import time

_now, _file = time.time, os.environ.get("FAULTS_CLOCK")


def _jumped() -> float:
    try:
        with open(_file) as file:
            return _now() + float(file.read() or 0)
    except OSError:
        return _now()


if _file:
    time.time = _jumped
    time.time_ns = lambda: int(_jumped() * 1e9)
