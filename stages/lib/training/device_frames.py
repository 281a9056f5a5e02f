"""Frames of many clips as uint8: on the device if they fit there, else in pinned memory of the host."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stages.lib.params import require

CHOICES = ("auto", "device", "host")


class DeviceFrames:
    """N frames [N, 1, H, W]; indexing by row gives float 0…1 on the device.

    SONOPAIR_FRAMES_ON says where the uint8 frames lie: device, host, or auto (the default), which is the device if they take at
    most half of its free memory. The choice changes no result.

    Args:
        stored: uint8 [N, 1, H, W] on the host.
        device: that computes with the frames.
    """

    def __init__(self, stored: torch.Tensor, device: torch.device):
        choice = os.environ.get("SONOPAIR_FRAMES_ON", "auto")
        require(choice in CHOICES, f"SONOPAIR_FRAMES_ON is {choice!r}; choose from {', '.join(CHOICES)}")
        if choice == "auto":
            fits = device.type != "cuda" or stored.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
            choice = "device" if fits else "host"
        self.device, self.shape = device, stored.shape
        apart = choice == "host" and device.type == "cuda"
        self.stored = stored.pin_memory() if apart else stored.to(device)
        self.stream = torch.cuda.Stream(device) if apart else None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The frames of these rows [...], float in 0…1, [..., 1, H, W]."""
        if self.stream is None:
            return self.stored[rows].float() / 255
        chosen = torch.empty((rows.numel(), *self.shape[1:]), dtype=torch.uint8, pin_memory=True)
        torch.index_select(self.stored, 0, rows.flatten().cpu(), out=chosen)
        return chosen.to(self.device, non_blocking=True).reshape(*rows.shape, *self.shape[1:]).float() / 255

    @contextmanager
    def beside(self) -> Iterator[list[torch.Tensor]]:
        """Copy the next batch on a side stream.

        Append its tensors to the list that this yields: their memory is then not reused before the copy has been used.
        """
        tensors = []
        if self.stream is None:
            yield tensors
            return
        with torch.cuda.stream(self.stream):
            yield tensors
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self.stream)
        for tensor in tensors:
            tensor.record_stream(now)

    def catch_up(self) -> None:
        """Make the copy stream wait for all queued GPU work."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
