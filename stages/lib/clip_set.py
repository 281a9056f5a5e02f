"""Clips of the pretraining set with their frames on the device, and the batches that an epoch draws from them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from stages.lib.store import Store


class Clips(NamedTuple):
    """What a method may know of the B clips of a step, a tensor [B] each, on the device."""

    index: torch.Tensor     # number of the clip in its set
    count: torch.Tensor     # frames of the clip
    label: torch.Tensor     # pooled class, −1 where unlabelled
    fps: torch.Tensor       # frames a second of the recording, NaN where unknown


class ClipSet:
    """The clips of one split; the frames lie on the device as uint8, picking them is index arithmetic there.

    Args:
        store: the assembled set (`data/us4`), whose clip table has columns first, frames, pooled_class, fps, split.
        split: train or held_out.
        device: where the frames go.
    """

    def __init__(self, store: Store, split: str, device: torch.device):
        table = store.clip_table
        self.classes = sorted(set(table["pooled_class"]) - {""})
        self.table = table[table["split"] == split].reset_index(drop=True)
        spans = zip(self.table["first"], self.table["frames"], strict=True)
        rows = torch.cat([torch.arange(first, first + frames) for first, frames in spans] or [torch.arange(0)])
        self.frames = torch.from_numpy(store.frames[rows.numpy()]).unsqueeze(1).to(device)      # N x 1 x H x W
        count = torch.tensor(self.table["frames"].to_numpy(), dtype=torch.long)
        self.longest = int(count.max()) if len(count) else 0
        self.first = (count.cumsum(0) - count).to(device)                                       # row of a clip's first frame
        numbers = {name: number for number, name in enumerate(self.classes)} | {"": -1}
        self.clips = Clips(
            index=torch.arange(len(self.table), device=device),
            count=count.to(device),
            label=torch.tensor([numbers[name] for name in self.table["pooled_class"]], dtype=torch.long, device=device),
            fps=torch.tensor(self.table["fps"].to_numpy(dtype="float32"), device=device),
        )

    def __len__(self) -> int:
        return len(self.table)

    def batches(
        self,
        batch_size: int,
        pick: Callable[[Clips, torch.Generator], torch.Tensor],
        generator: torch.Generator,
        steps: int | None = None,
    ) -> Iterator[tuple[torch.Tensor, Clips]]:
        """Shuffled batches of an epoch: every clip once, or as many full batches as `steps` says.

        Args:
            batch_size: clips per step; without `steps` the last batch may have fewer.
            pick: the method's choice of frames, numbers within the clip [B, k].
            generator: of shuffling and picking.

        Yields:
            frames, float in 0…1, [B, k, 1, H, W], and what is known of their clips.
        """
        wanted = len(self) if steps is None else steps * batch_size
        rounds = -(-wanted // len(self))
        order = torch.cat([torch.randperm(len(self), generator=generator, device=generator.device) for _ in range(rounds)])
        for chosen in order[:wanted].split(batch_size):
            clips = Clips(*(values[chosen] for values in self.clips))
            rows = self.first[chosen, None] + pick(clips, generator)                            # B x k
            yield self.frames[rows].float() / 255, clips
