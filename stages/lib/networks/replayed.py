"""A network's training passes as CUDA graphs: their kernels reach the GPU in one call each.

With small batches a GPU waits for the CPU, which launches every kernel by itself. One graph holds the kernels of the forward
pass, another one those of the backward pass. Replaying them gives the same bits. SONOPAIR_CUDA_GRAPHS=0 forbids it.
"""

import gc
import os

import torch
from torch import nn
from torch.overrides import _get_current_function_mode

from stages.lib.training import distributed


class Replayed:
    """Calls a network. On a GPU a training pass is replayed if the one before was like it.

    Alike are passes with the same shape of the batch, the same parameters, and the same parts that train. Everything else runs
    kernel by kernel: evaluation, several processes, passes that are watched (`forward_mode.Recorded`) or have the parameters
    of a functional call, a second pass before the backward pass of the first, and a network that cannot be captured.
    """

    def __init__(self):
        self.graph = self.captured = self.last = None       # the graph, what it stands for, and the pass before
        self.waits = False                                  # for the backward pass of the last replay

    def __deepcopy__(self, memo: dict) -> "Replayed":
        return Replayed()

    def __call__(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """The network's output for images [N, 3, H, W]."""
        kind, before = self._kind(network, images), self.last
        self.last = kind
        if kind is not None and kind == before != self.captured:
            self.captured, self.graph = kind, capture(network, images)
        if kind is None or kind != self.captured or self.graph is None or self.waits:
            return network(images)
        self.waits = True
        output = self.graph(images).clone()                 # the next replay overwrites its own output
        output.register_hook(self._backward_begins)
        return output

    def _kind(self, network: nn.Module, images: torch.Tensor) -> tuple | None:
        """What decides the kernels of a pass; None if it must not be replayed."""
        trains = images.is_cuda and torch.is_grad_enabled() and network.training and not images.requires_grad
        if not trains or distributed.size() > 1 or _get_current_function_mode() is not None:
            return None
        parameters = list(network.parameters())
        if not all(isinstance(each, nn.Parameter) for each in parameters) or not any(each.requires_grad for each in parameters):
            return None
        trained = tuple((each.data_ptr(), each.requires_grad) for each in parameters)
        return images.shape, images.dtype, trained, tuple(part.training for part in network.modules())

    def _backward_begins(self, _: torch.Tensor) -> None:
        self.waits = False


def capture(network: nn.Module, images: torch.Tensor) -> nn.Module | None:
    """The network whose passes are graphs, or None if they cannot be captured: an operation, or too little memory.

    A graph keeps the memory of its passes. So a training that needs more than a third of the GPU's goes without. Running
    statistics and torch's random stream stay as they are, although capturing computes some passes.
    """
    gc.collect()                # graphs of networks that are gone: torch holds them in cycles
    needed, there = torch.cuda.max_memory_allocated(images.device), torch.cuda.mem_get_info(images.device)[1]
    if os.environ.get("SONOPAIR_CUDA_GRAPHS") == "0" or 3 * needed > there:
        return None
    kept = [value.clone() for value in network.buffers()]
    stream = torch.cuda.get_rng_state(images.device)
    precision, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)     # graphs are captured on a stream of their own
    try:
        with torch.autocast("cuda", precision, enabled, cache_enabled=False):
            return torch.cuda.make_graphed_callables(nn.Sequential(network), (images.clone(),))
    except RuntimeError:
        return None
    finally:
        torch.cuda.set_rng_state(stream, images.device)
        for value, before in zip(network.buffers(), kept, strict=True):
            value.data.copy_(before)        # not a change to a pass that waits for its backward pass
