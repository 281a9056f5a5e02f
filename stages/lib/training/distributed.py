"""Several processes, one per GPU, that train as one: started by torchrun, all of them with the same random streams.

Within `sharing` every rank knows the whole batch, takes its own part of the clips through views and network, and sees the
features of all of them, with their gradient: heads, losses and queues are those of one process with the whole batch, and equal
everywhere. In one process nothing of this happens.
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

_parts = 1      # into how many parts a batch is divided at the moment
_clips = 0      # and of how many clips it is


def launch(module: str) -> None:
    """Start the module anew under torchrun if SONOPAIR_TORCHRUN holds its options (`--nproc-per-node 8`); else do nothing."""
    options = os.environ.get("SONOPAIR_TORCHRUN", "")
    if options and not dist.is_torchelastic_launched():
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *shlex.split(options), "-m", module])


@contextmanager
def group(where: torch.device) -> Iterator[None]:
    """The processes that torchrun has started find each other; nothing without torchrun."""
    if not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes."""
    return size() == 1 or dist.get_rank() == 0


def wait() -> None:
    """Until all processes are here."""
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
    """A step begins, with a batch of so many clips: as many for each rank, or one more for the first ones."""
    global _clips
    _clips = clips


def own(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """This rank's part of what is known of the whole batch, along the dimension of the clips."""
    return values if _parts == 1 else values.tensor_split(_parts, dim)[dist.get_rank()]


def everyones(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The parts of all ranks in their order, the inverse of `own`, with gradient."""
    if _parts == 1:
        return values
    shape = list(values.shape)
    shape[dim] = _clips
    whole = values.new_zeros(shape)
    own(whole, dim).copy_(values)       # a view of it: nothing but this rank's part is set
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
    """Batch norm with the statistics of all ranks' images, where torch's own, which is for GPUs only, cannot be had."""

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
    """The network with the batch norm of its images over all ranks; as it is, in one process."""
    if size() == 1:
        return network
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm2d):
            kind = nn.SyncBatchNorm if part.weight.is_cuda else _SyncBatchNorm
            twin = kind(part.num_features, part.eps, part.momentum).to(part.weight)
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
    """`method.loss`, after whose backward pass every rank has the gradient of the whole batch."""
    if size() == 1:
        return method.loss
    where = next(method.parameters()).device
    devices = [where.index] if where.type == "cuda" else None
    # buffers stay equal by themselves
    return DistributedDataParallel(_Loss(method), devices, forward_sync_buffers=False)
