"""Several processes, one per GPU, that train as one: started by torchrun, all of them with the same random streams.

Within `sharing` every rank knows the whole batch. It takes its own part of the clips through views and network, then gathers
the features of all clips with their gradient. Heads, losses and queues therefore see the whole batch and are equal in all
ranks. A single process does none of this.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_parts = 1      # number of parts of the current batch
_clips = 0      # number of clips of the current batch


def launch(module: str) -> None:
    """Start the module anew under torchrun if SONOPAIR_TORCHRUN holds its options (`--nproc-per-node 8`); else do nothing."""
    options = os.environ.get("SONOPAIR_TORCHRUN", "")
    if options and not dist.is_torchelastic_launched():
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *shlex.split(options), "-m", module])


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun has started; do nothing without torchrun."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """True in the process that writes files."""
    return size() == 1 or dist.get_rank() == 0


def wait() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        dist.barrier()


@contextmanager
def sharing() -> Iterator[None]:
    """Within it each process works on its own part of every batch."""
    global _parts
    _parts = size()
    try:
        yield
    finally:
        _parts = 1


def deal(clips: int) -> None:
    """Begin a step with a batch of so many clips: the ranks take equal parts, the first ones one clip more if needed."""
    global _clips
    _clips = clips


def own(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """This rank's part of values of the whole batch, along the dimension of the clips."""
    return values if _parts == 1 else values.tensor_split(_parts, dim)[dist.get_rank()]


def everyones(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The parts of all ranks in their order, the inverse of `own`, with gradient."""
    if _parts == 1:
        return values
    shape = list(values.shape)
    shape[dim] = _clips
    whole = values.new_zeros(shape)
    own(whole, dim).copy_(values)       # writes into `whole` through a view
    return _Sum.apply(whole)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, gradient)


class _SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all ranks' images; torch's own is for GPUs only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if _parts == 1 or not self.training:
            return super().forward(image)
        values = image.to(torch.promote_types(image.dtype, torch.float32))      # b x C x H x W
        count = _Sum.apply(values.new_tensor(values[:, 0].numel()))
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(image.dtype)


def synchronised(network: nn.Module) -> nn.Module:
    """The network with batch norm over the images of all ranks; a single process keeps it as it is."""
    if size() == 1:
        return network
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm2d):
            twin = _SyncBatchNorm(part.num_features, part.eps, part.momentum).to(part.weight)
            twin.load_state_dict(part.state_dict())
            setattr(network, name, twin.requires_grad_(part.weight.requires_grad))
        else:
            synchronised(part)
    return network


class _Loss(nn.Module):
    """A method whose forward pass is its loss, as DistributedDataParallel wants it."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method

    def forward(self, *arguments):
        return self.method.loss(*arguments)


def loss_of(method: nn.Module) -> Callable:
    """`method.loss`; after its backward pass every rank has the gradient of the whole batch."""
    if size() == 1:
        return method.loss
    device = next(method.parameters()).device
    devices = [device.index] if device.type == "cuda" else None
    # buffers stay equal by themselves
    return DistributedDataParallel(_Loss(method), devices, forward_sync_buffers=False)
