"""Clips of the pretraining set with their frames on the device, and the random batches of an epoch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from stages.lib.clips.store import FAN, Store
from stages.lib.training import distributed
from stages.lib.training.device_frames import DeviceFrames


class Clips(NamedTuple):
    """Facts of the B clips of a step that a method may use, tensors on the device."""

    index: torch.Tensor     # [B] row of the clip in clips.csv, which has the clips of all splits
    count: torch.Tensor     # [B] frames of the clip in the store
    label: torch.Tensor     # [B] pooled class, −1 where unlabelled
    fps: torch.Tensor       # [B] frames a second of the recording, NaN where unknown
    number: torch.Tensor    # numbers of frames within the recording. In `pick` of all frames, [B, longest], −1 beyond the
                            # last; in `loss` of the picked ones, [B, k]

    def take(self, chosen: torch.Tensor) -> "Clips":
        """The clips at these places, in this order."""
        return Clips(*(values[chosen] for values in self))


class ClipSet:
    """The clips of one split; picking their frames (`lib/training/device_frames.py`) is index arithmetic on the device.

    Args:
        store: the assembled set (`data/us4`); its clip table has columns first, frames, pooled_class, fps, split, its frame
            table has the column frame, the number within the recording.
        split: train or held_out.
        device: that computes with the frames.
    """

    def __init__(self, store: Store, split: str, device: torch.device):
        table = store.clip_table
        self.classes = sorted(set(table["pooled_class"]) - {""})
        self.table, self.rows = table[table["split"] == split], len(table)
        spans = zip(self.table["first"], self.table["frames"], strict=True)
        rows = torch.cat([torch.arange(first, first + frames) for first, frames in spans] or [torch.arange(0)])
        self.frames = DeviceFrames(torch.from_numpy(store.frames[rows.numpy()]).unsqueeze(1), device)   # N x 1 x H x W
        count = torch.tensor(self.table["frames"].to_numpy(), dtype=torch.long)
        number = torch.full((len(count), int(count.max()) if len(count) else 0), -1)
        within = torch.arange(number.shape[1]) < count[:, None]
        number[within] = torch.tensor(store.frame_table["frame"].to_numpy()[rows.numpy()])
        self.first = (count.cumsum(0) - count).to(device)                                       # row of a clip's first frame
        numbers = {name: number for number, name in enumerate(self.classes)} | {"": -1}
        fan = table.reindex(columns=FAN).to_numpy(dtype="float32")
        self.fan = torch.tensor(fan, device=device)                 # [rows of clips.csv, 5], NaN where unknown
        self.clips = Clips(
            index=torch.tensor(self.table.index, dtype=torch.long, device=device),
            count=count.to(device),
            label=torch.tensor([numbers[name] for name in self.table["pooled_class"]], dtype=torch.long, device=device),
            fps=torch.tensor(self.table["fps"].to_numpy(dtype="float32"), device=device),
            number=number.to(device),
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
        """Shuffled batches of an epoch: every clip once, or `steps` full batches.

        Args:
            batch_size: clips per step. Without `steps` the last batch may have fewer clips. A single last clip has nothing to
                contrast with, so it joins the batch before.
            pick: the method's choice of frames, places within the clip [B, k].
            generator: of shuffling and picking.

        Yields:
            frames, float in 0…1, [B, k, 1, H, W], and their clips, with `number` of the picked frames. Under torchrun the
            frames belong to this rank's part of the clips.
        """
        order = self.order(batch_size, generator, steps)
        self.frames.catch_up()          # with the order, too
        for chosen in order:
            distributed.deal(len(chosen))
            with self.frames.beside() as tensors:
                frames, clips = self.batch(chosen, pick, generator)
                tensors += [frames, *clips]
            yield frames, clips

    def order(self, batch_size: int, generator: torch.Generator, steps: int | None) -> list[torch.Tensor]:
        """Places of the clips of each batch, [B] each; never a clip twice in a batch, where it would be its own negative.

        A batch that begins at the end of one pass takes first, from the next pass, clips that it does not have yet.
        """
        wanted, order = len(self) if steps is None else steps * batch_size, self.first.new_empty(0)
        while len(order) < wanted:
            shuffled = torch.randperm(len(self), generator=generator, device=generator.device)
            begun = order[len(order) - len(order) % batch_size :]
            later = torch.isin(shuffled, begun).int().argsort(stable=True)
            order = torch.cat([order, shuffled[later]])
        *batches, last = order[:wanted].split(batch_size)
        if len(last) == 1 and batches:
            last = torch.cat([batches.pop(), last])
        return [*batches, last]

    def batch(
        self, chosen: torch.Tensor, pick: Callable[[Clips, torch.Generator], torch.Tensor], generator: torch.Generator
    ) -> tuple[torch.Tensor, Clips]:
        """The clips at these places [B], as `batches` yields them."""
        clips = self.clips.take(chosen)
        picked = pick(clips, generator)                                                         # B x k
        frames = self.frames[distributed.own(self.first[chosen, None] + picked)]
        return frames, clips._replace(number=clips.number.gather(1, picked))

    def steps(self, batch_size: int) -> int:
        """Batches of an epoch that visits every clip once."""
        return max(1, len(self) // batch_size + (len(self) % batch_size > 1))

    def without_labels(self, fraction: float) -> torch.Tensor:
        """Clips whose label is hidden so that `fraction` of each class's labels are left, [rows of clips.csv] bool.

        Drawn from torch's default stream, which the run's seed sets. No clip of another split is among them.
        """
        hidden = torch.zeros(self.rows, dtype=torch.bool)
        for number in range(len(self.classes)):
            labelled = self.clips.index[self.clips.label == number].cpu()
            hidden[labelled[torch.randperm(len(labelled))[round(fraction * len(labelled)) :]]] = True
        return hidden


def choose_repeatedly(
    candidates: torch.Tensor, number: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random places among the candidates, drawn with replacement. Arguments and result as in `choose`.

    A row without candidates gives place 0, which is marked as no candidate.
    """
    total = candidates.sum(1, keepdim=True)                                                     # B x 1
    draw = torch.rand(len(candidates), number, generator=generator, device=generator.device)
    rank = (draw * total).long().clamp(max=total - 1) + 1                                       # B x number
    return torch.searchsorted(candidates.cumsum(1), rank.clamp(min=1)).clamp(max=candidates.shape[1] - 1), rank > 0


def choose(candidates: torch.Tensor, number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct random places among the candidates, in random order.

    Args:
        candidates: [B, L] bool.
        number: of places to choose in each row.

    Returns:
        The places [B, number], and which of them are candidates: all, except where a row has too few.
    """
    keys = torch.rand(len(candidates), max(number, candidates.shape[1]), generator=generator, device=generator.device)
    keys[:, : candidates.shape[1]].masked_fill_(~candidates, -1)
    keys[:, candidates.shape[1] :] = -1
    found = keys.topk(number)
    return found.indices, found.values >= 0
