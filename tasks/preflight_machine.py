"""Refuse what this machine, or the cluster that it is to join, cannot run."""

import os
import shutil
import socket
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from conf.load import refusal
from conf.schema import Experiment, Hardware


def check_machine(hardware: Hardware, *, trains: bool = True) -> None:
    """Refuse to sample and train where this machine lacks what the settings ask for.

    Looks for vLLM and a GPU, and for what only a trainer uses: the attention kernel, and the
    cluster that is named.

    Args:
        hardware: The settings.
        trains: Whether stages are to be trained, or checkpoints only sampled from.

    Raises:
        ConfigError: for the first thing that is missing.
    """
    if hardware.rollout == "vllm" and find_spec("vllm") is None:
        raise refusal(
            "hardware.rollout: found 'vllm', but vLLM is not installed here",
            "make test-vllm installs it for a CPU, make gpu on a GPU node; or set hardware=cpu",
        )
    if hardware.device == "cuda":
        _check_gpus(hardware)
        if hardware.rollout == "vllm":
            _check_compiler()
    if not trains:
        return
    if hardware.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise refusal(
            "hardware.attention: found 'flash_attention_2', but flash-attn is not installed here",
            "set hardware.attention=sdpa, or build it on the node: "
            "pip install flash-attn==2.8.3 --no-build-isolation",
        )
    if hardware.ray_address:
        _check_cluster_answers(hardware.ray_address)


def _check_gpus(hardware: Hardware) -> None:
    """A rank trains on a GPU of its own, and evaluations sample on as many of this machine."""
    found = _gpus()
    if found == 0 or (found is None and shutil.which("nvidia-smi") is None):
        raise refusal(
            "hardware.device: found 'cuda', but no NVIDIA GPU on this machine (no /dev/nvidia0, "
            "no nvidia-smi, or an empty CUDA_VISIBLE_DEVICES)",
            "run it on a GPU node, or set hardware=cpu",
        )
    if found is not None and found < hardware.ranks:
        raise refusal(
            f"hardware.ranks: found {hardware.ranks}, needed at most {found}, the GPUs that this "
            "machine shows (/dev/nvidia*, or CUDA_VISIBLE_DEVICES)",
            f"set hardware.ranks={found}, or run it on a node with more",
        )


def _check_compiler() -> None:
    """vLLM's kernels in Triton are started by C that is compiled on the spot, against Python."""
    named = os.environ.get("CC")
    compiler = next(filter(shutil.which, [named] if named else ["gcc", "clang", "cc"]), None)
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if compiler is None or not header.is_file():
        lacks = f"no {header}" if compiler else f"no C compiler ({named or 'gcc, clang'})"
        raise refusal(
            f"hardware.device: found 'cuda', but {lacks}: Triton, which vLLM needs on a GPU, "
            "compiles with both",
            "apt-get install gcc python3-dev, or set CC to a compiler",
        )


def _gpus() -> int | None:
    """How many GPUs a program here sees, None where only the driver's tools could say.

    Asked of the system: importing torch would take seconds.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return sum(1 for _ in Path("/dev").glob("nvidia[0-9]*")) or None


def _check_cluster_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise refusal(
            f"hardware.ray_address: nothing answers at {address} ({error})",
            "is `ray start --head` running there, and its port open to this machine?",
        ) from error


def check_ranks(experiment: Experiment) -> None:
    """Refuse ranks that cannot share an update evenly, and engines or a cluster that do not fit.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    hardware = experiment.hardware
    ranks = hardware.ranks * hardware.nodes
    check_engines(hardware)
    _check_trainer(hardware)
    _check_cluster(hardware)
    for position, stage in enumerate(experiment.stages):
        rows = experiment.selection.rows_per_prompt(stage.group_size)
        if stage.mini_batch_size * rows % ranks:
            raise refusal(
                f"stages.{position}: found {stage.mini_batch_size * rows} rollouts per update "
                f"(mini_batch_size x the {rows} of a prompt that count), needed a multiple of the "
                f"{ranks} ranks",
                f"raise stages.{position}.mini_batch_size or lower hardware.ranks",
            )


def check_engines(hardware: Hardware) -> None:
    """Refuse engines that do not fit the ranks.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    if hardware.rollout == "torch" and hardware.tensor_parallel > 1:
        raise refusal(
            f"hardware.tensor_parallel: found {hardware.tensor_parallel} ranks per engine, "
            "needed 1 with hardware.rollout=torch, which samples on each rank by itself",
            "set hardware.tensor_parallel=1, or hardware.rollout=vllm",
        )
    if hardware.ranks % hardware.tensor_parallel:  # of a machine: no engine spans two
        raise refusal(
            f"hardware.tensor_parallel: found {hardware.tensor_parallel} ranks per engine, "
            f"needed a divisor of the {hardware.ranks} ranks of a machine",
            "set hardware.tensor_parallel=1",
        )


def _check_trainer(hardware: Hardware) -> None:
    """Refuse kernels and engines that a trainer would fail by after minutes, or crawl with."""
    if (hardware.attention, hardware.dtype) == ("flash_attention_2", "float32"):
        raise refusal(
            "hardware.attention: found 'flash_attention_2' with hardware.dtype=float32, needed "
            "bfloat16: its kernels take no other",
            "set hardware.attention=sdpa, or hardware.dtype=bfloat16",
        )
    if (hardware.device, hardware.rollout) == ("cuda", "torch"):
        raise refusal(
            "hardware.rollout: found 'torch' with hardware.device=cuda, needed 'vllm': beside a "
            "trainer the torch engine samples on the processor",
            "set hardware.rollout=vllm, or hardware=cpu",
        )


def _check_cluster(hardware: Hardware) -> None:
    """Several machines need a Ray cluster that spans them, named by host and port."""
    address = hardware.ray_address
    if not address:
        if hardware.nodes > 1:
            raise refusal(
                f"hardware.nodes: found {hardware.nodes} machines, needed hardware.ray_address: "
                "Stagecraft starts Ray on this machine only",
                "`ray start --head` on one and `ray start --address=...` on the others, then "
                "hardware.ray_address=host:port",
            )
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise refusal(
            f"hardware.ray_address: found {address!r}, needed host:port",
            "take what `ray start --head` printed",
        )
