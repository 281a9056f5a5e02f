"""The device that a stage computes on, and the random streams on it."""

import os

import torch

from stages.lib.params import require


def device() -> torch.device:
    """The GPU if there is one, else the CPU; SONOPAIR_DEVICE overrides. Under torchrun each process has its own GPU.

    On a GPU torch is set to its deterministic algorithms, so that a killed run goes on bit for bit. It warns where it has none.

    Raises:
        UserError: SONOPAIR_DEVICE names no device that this machine has, or a process of torchrun has no GPU.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    choices = ["cpu", *(["cuda"] if gpus else []), *gpus]
    named = os.environ.get("SONOPAIR_DEVICE", "cuda" if gpus else "cpu")
    require(named in choices, f"SONOPAIR_DEVICE is {named!r}; this machine has {', '.join(choices)}")
    if named == "cuda":
        rank = int(os.environ.get("LOCAL_RANK", 0))
        require(rank < len(gpus), f"torchrun starts more processes than this machine has GPUs, {len(gpus)}; lower "
                "--nproc-per-node")
        named = gpus[rank]
    if named != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # cuBLAS reads it once, at its first product
        torch.cuda.set_device(named)        # else pinned memory and NCCL's barrier take memory of the first GPU, too
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False     # else every torch.empty is filled with NaN
    return torch.device(named)


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A new random stream on the device."""
    return torch.Generator(device).manual_seed(seed)


def random_state(device: torch.device) -> list[torch.Tensor]:
    """State of torch's default streams, from which dropout draws: the CPU's and the device's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    """Put torch's default streams back to a state."""
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
