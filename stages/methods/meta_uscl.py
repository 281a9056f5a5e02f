"""Meta-USCL: a small network learns by meta-learning how much each pair counts (Chen et al. 2022, arXiv 2212.04097)."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Len
from torch import nn

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.forward_mode import Recorded
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import Count, Positive, require
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import nt_xent, nt_xent_terms
from stages.lib.pretraining.meta_gradient import Step, meta_gradient
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.training import distributed
from stages.lib.training.device import random_state
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Positive pair interpolation, weighted NT-Xent, and the meta step on the weight network.

    The meta set is the held-out part of the clips: fixed and disjoint from training. (The authors' code draws it anew for every
    object, so that it overlaps with training, and always takes frame 0.) Its loss steers the pair weights, so it should not
    choose the epoch, too.

    Args:
        mixing: standard (three frames in time order) or inner (convex combinations of `mixing_frames` frames).
        mixing_frames: number of frames that `inner` combines.
        mixing_beta: parameters of the Beta distribution of both weights of `standard`.
        max_distance: greatest distance of a frame from the first, in kept frames; None: the whole clip.
        temperature: τ of NT-Xent.
        embedding_width: D.
        weight_hidden_width: of the weight network.
        weight_learning_rate: of Adam on the weight network.
        meta_batch_size: clips of the meta set in a meta step.
        meta_every: steps between two meta steps.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        held_out: ClipSet,
        *,
        mixing: Literal["standard", "inner"],
        mixing_frames: Annotated[int, Ge(3)],
        mixing_beta: Annotated[list[Positive], Len(2, 2)],
        max_distance: Annotated[int, Ge(2)] | None,
        temperature: Positive,
        embedding_width: Count,
        weight_hidden_width: Count,
        weight_learning_rate: Positive,
        meta_batch_size: Annotated[int, Ge(2)],
        meta_every: Count,
    ):
        super().__init__(backbone, clip_set, views)
        require(distributed.size() == 1, "meta_uscl trains in one process (its meta step works only within one); unset "
                "SONOPAIR_TORCHRUN")
        require(len(held_out) > 1, f"clips held out: {len(held_out)}, too few for a meta set; raise "
                "assemble_us4.held_out_fraction")
        fits = mixing != "inner" or max_distance is None or max_distance >= mixing_frames - 1
        require(fits, f"params.yaml: methods.meta_uscl.max_distance is {max_distance}; {mixing_frames} frames of inner need "
                f"{mixing_frames - 1} or more, or null")
        self.mixing_frames, self.mixing_beta = mixing_frames if mixing == "inner" else 3, mixing_beta
        self.mixing, self.max_distance, self.temperature = mixing, max_distance, temperature
        self.meta_set, self.meta_batch_size, self.meta_every = held_out, meta_batch_size, meta_every
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        layers = nn.Linear(2 * backbone.feature_width, weight_hidden_width), nn.Linear(weight_hidden_width, 1)
        self.weight_network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Sigmoid())
        self.weight_optimizer = torch.optim.Adam(self.weight_network.parameters(), lr=weight_learning_rate)
        self.meta_draw = torch.Generator(clip_set.frames.device).manual_seed(torch.initial_seed() + 1)
        self.steps, self.forward_pass = 0, None
        self.meta_loss = torch.tensor(torch.nan)            # of the last meta step
        unit_weights = torch.eye(self.mixing_frames)
        for name, value in {"ends": unit_weights[[0, -1]][:, None], "middle": unit_weights[1]}.items():
            self.register_buffer(name, value, persistent=False)         # 2 x 1 x n, n: on the device once

    def get_extra_state(self) -> dict:
        return {"weight_optimizer": self.weight_optimizer.state_dict(), "draw": self.meta_draw.get_state(), "steps": self.steps,
                "meta_loss": self.meta_loss}

    def set_extra_state(self, state: dict) -> None:
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.meta_draw.set_state(state["draw"])
        self.steps = state["steps"]
        self.meta_loss = state["meta_loss"].to(self.ends.device)

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the main optimiser trains, by name: all but those of the weight network."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("weight_network.")}

    def trained(self) -> list[nn.Parameter]:
        return list(self.encoder_parameters().values())

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised views [2, B, 1, H, W] → features [2B, F] and unit embeddings [2B, D]."""
        feature = self.backbone(views)
        return feature, unit(self.projection_head(feature))

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Frames in time order, [B, n]: the first one, and n − 1 others at distinct distances of at most `max_distance`.

        A clip of fewer than n frames gives all of its frames and repeats the last one.
        """
        furthest = (clips.count - 1).clamp(max=self.max_distance or clips.number.shape[1])
        distances = torch.arange(1, clips.number.shape[1] + 1, device=clips.count.device) <= furthest[:, None]
        drawn, found = choose(distances, self.mixing_frames - 1, generator)
        distance = torch.where(found, drawn + 1, furthest[:, None]).sort(1).values              # B x (n − 1)
        room = clips.count - distance[:, -1]
        first = (torch.rand(len(room), generator=generator, device=generator.device) * room).long()
        return first[:, None] + torch.cat([torch.zeros_like(first)[:, None], distance], 1)

    def mixing_weights(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Weights of the n frames in the left and in the right view, [2, B, n], each summing to 1.

        standard: (1 − a, a, 0) and (0, b, 1 − b). inner: uniform on the simplex. A clip of two frames gives them as they are.
        """
        several, device = clips.count[:, None] >= 3, clips.count.device
        if self.mixing == "inner":
            spacing = torch.empty((2, len(several), self.mixing_frames), device=device).exponential_(generator=generator)
            spacing = spacing.masked_fill(torch.arange(self.mixing_frames, device=device) >= clips.count[:, None], 0)
            return torch.where(several, spacing / spacing.sum(2, keepdim=True), self.ends)
        alpha = (torch.full((2, len(several)), value, device=device) for value in self.mixing_beta)
        # both may underflow to 0
        towards, against = (torch._standard_gamma(value, generator=generator).clamp_min(1e-30) for value in alpha)
        share = (towards / (towards + against))[..., None]                                      # 2 x B x 1, a and b
        return torch.where(several, (1 - share) * self.ends + share * self.middle, self.ends)

    def step_views(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Positive pair interpolation: the frames [B, n, 1, H, W] as they are; their mixtures, mixed first, then augmented."""
        weights = self.mixing_weights(clips, generator).to(frames.dtype)
        mixed = torch.einsum("vbn,bnchw->vbchw", weights, frames)
        places, views = tuple(range(frames.shape[1])), self.augment(mixed, clips, generator, dim=1)
        alone = {f"original {place + 1}": View(frames[:, place], (place,)) for place in places}
        return alone | {side: View(view, places, weight[:, :-1])
                        for side, view, weight in zip(("left", "right"), views, weights, strict=True)}

    def pairs(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """The two mixed views, normalised: [B, n, 1, H, W] → [2, B, 1, H, W]."""
        roles = self.step_views(frames, clips, generator)
        return self.normalised(roles["left"], roles["right"])

    def weight(self, feature: torch.Tensor) -> torch.Tensor:
        """The weight of each pair in 0…1 by the weight network: [2B, F] → [B]. The features get no gradient from it."""
        return self.weight_network(torch.cat(feature.detach().chunk(2), 1)).squeeze(1)

    def terms(self, embedding: torch.Tensor) -> torch.Tensor:
        """ℓ of each pair, [B]."""
        return nt_xent_terms(*embedding.chunk(2), self.temperature)

    def meta_views(self) -> torch.Tensor:
        """Two normalised views of any frame of clips of the meta set, from a random stream of its own."""
        chosen = torch.randperm(len(self.meta_set), generator=self.meta_draw, device=self.meta_draw.device)
        clips = self.meta_set.clips.take(chosen[: self.meta_batch_size])
        first = self.meta_set.first[chosen[: self.meta_batch_size]]
        frames = self.meta_set.frames[first + super().pick(clips, self.meta_draw)[:, 0]]
        return self.normalised(*super().step_views(frames[:, None], clips, self.meta_draw).values())

    def before_step(
        self, frames: torch.Tensor, clips: Clips, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """The forward pass of the step, whose graph `loss` uses, and every `meta_every` steps a meta step."""
        require(isinstance(optimizer, torch.optim.SGD), "params.yaml: methods.meta_uscl.optimizer.name must be sgd: the meta "
                "step computes the next step of SGD")
        require(not optimizer._optimizer_step_pre_hooks, "params.yaml: methods.meta_uscl.optimizer.gradient_norm must be null: "
                "the meta step computes the next step of SGD with the whole gradient")
        views = self.pairs(frames, clips, generator)
        before = random_state(views.device)
        with Recorded() as recorded:
            feature, embedding = self(views)
        terms = self.terms(embedding)
        if self.steps % self.meta_every == 0:
            weight = self.weight(feature)
            share = weight / weight.sum()
            step = Step(views, terms, recorded, before)
            gradient, self.meta_loss = meta_gradient(self, step, share, self.meta_views, optimizer)
            self.weight_optimizer.zero_grad()
            share.backward(gradient)
            self.weight_optimizer.step()
        self.steps += 1
        self.forward_pass = feature, terms

    def loss(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        """Σ wᵢ ℓᵢ / Σ wᵢ, the weights without gradient; unweighted on held-out clips."""
        distance = clips.number[:, -1] - clips.number[:, 0]
        if not self.training:
            feature, embedding = self(self.pairs(frames, clips, generator))
            loss = nt_xent(*embedding.chunk(2), self.temperature)
            return loss, {"frame_distance": distance, "weight": self.weight(feature).detach()}
        feature, terms = self.forward_pass
        self.forward_pass = None
        with torch.no_grad():
            weight = self.weight(feature)
        scalars = {"contrastive": terms.detach().mean(), "meta_loss": self.meta_loss}
        return (weight * terms).sum() / weight.sum(), scalars | {"frame_distance": distance, "weight": weight}
