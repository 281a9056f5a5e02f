"""Meta-USCL: a small network learns, by meta-learning, how much each pair should count (Chen et al. 2022, arXiv 2212.04097)."""

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from stages.lib.networks.backbone import Backbone
from stages.lib.networks.forward_mode import Recorded, tangents
from stages.lib.networks.heads import projection_head, unit
from stages.lib.params import require
from stages.lib.pretraining.clip_set import Clips, ClipSet, choose
from stages.lib.pretraining.losses import nt_xent, nt_xent_terms
from stages.lib.pretraining.method import ContrastiveMethod, View
from stages.lib.training import distributed
from stages.lib.training.device import random_state, set_random_state
from stages.lib.training.views import Views


class Method(ContrastiveMethod):
    """Positive pair interpolation, weighted NT-Xent, and the meta step on the weight network.

    The meta set is the held-out part of the clips, fixed and disjoint from training; the authors' code draws it anew for each
    object, so that it overlaps, and always takes frame 0. Its loss steers the pair weights, so it should not choose the epoch.

    Args:
        mixing: standard (three frames in time order) or inner (convex combinations of `mixing_frames` frames).
        mixing_frames: frames that `inner` combines, 3 or more.
        mixing_beta: parameters of the Beta distribution of both weights of `standard`.
        max_distance: greatest distance of a frame from the first, in kept frames; None: the whole clip.
        temperature: τ of NT-Xent.
        embedding_width: D.
        weight_hidden_width: of the weight network.
        weight_learning_rate: of Adam on the weight network.
        meta_batch_size: clips of the meta set in a meta step.
        meta_every: steps from one meta step to the next.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_set: ClipSet,
        views: Views,
        meta_set: ClipSet,
        *,
        mixing: str,
        mixing_frames: int,
        mixing_beta: list,
        max_distance: int | None,
        temperature: float,
        embedding_width: int,
        weight_hidden_width: int,
        weight_learning_rate: float,
        meta_batch_size: int,
        meta_every: int,
    ):
        super().__init__(backbone, clip_set, views)
        require(distributed.size() == 1, "meta_uscl trains in one process (its meta step does not cross processes); unset "
                "SONOPAIR_TORCHRUN")
        block = "params.yaml: methods.meta_uscl"
        require(mixing in ("standard", "inner"), f"{block}.mixing is {mixing!r}; choose from standard, inner")
        require(mixing_frames >= 3, f"{block}.mixing_frames is {mixing_frames}; it must be at least 3")
        numbers = len(mixing_beta) == 2 and all(isinstance(value, (int, float)) and value > 0 for value in mixing_beta)
        require(numbers, f"{block}.mixing_beta is {mixing_beta}; it needs two numbers above 0")
        require(max_distance is None or max_distance >= 2, f"{block}.max_distance is {max_distance}; choose 2 or more, or null")
        require(meta_batch_size > 1, f"{block}.meta_batch_size is {meta_batch_size}; it must be at least 2")
        require(len(meta_set) > 1, f"clips held out: {len(meta_set)}, too few for a meta set; raise "
                "assemble_us4.held_out_fraction")
        self.require_positive(temperature=temperature, embedding_width=embedding_width, meta_every=meta_every)
        self.require_positive(weight_hidden_width=weight_hidden_width, weight_learning_rate=weight_learning_rate)
        self.mixing_frames, self.mixing_beta = mixing_frames if mixing == "inner" else 3, mixing_beta
        self.mixing, self.max_distance, self.temperature = mixing, max_distance, temperature
        self.meta_set, self.meta_batch_size, self.meta_every = meta_set, meta_batch_size, meta_every
        self.projection_head = projection_head(backbone.feature_width, backbone.feature_width, embedding_width)
        layers = nn.Linear(2 * backbone.feature_width, weight_hidden_width), nn.Linear(weight_hidden_width, 1)
        self.weight_network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Sigmoid())
        self.weight_optimizer = torch.optim.Adam(self.weight_network.parameters(), lr=weight_learning_rate)
        self.meta_draw = torch.Generator(clip_set.frames.device).manual_seed(torch.initial_seed() + 1)
        self.steps, self.forward_pass = 0, None
        unit_weights = torch.eye(self.mixing_frames)
        for name, value in {"ends": unit_weights[[0, -1]][:, None], "middle": unit_weights[1]}.items():
            self.register_buffer(name, value, persistent=False)         # 2 x 1 x n, n: on the device once

    def get_extra_state(self) -> dict:
        return {"weight_optimizer": self.weight_optimizer.state_dict(), "draw": self.meta_draw.get_state(), "steps": self.steps}

    def set_extra_state(self, state: dict) -> None:
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.meta_draw.set_state(state["draw"])
        self.steps = state["steps"]

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """What the main optimiser trains, by name: all but the weight network."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("weight_network.")}

    def trained(self) -> list[nn.Parameter]:
        return list(self.encoder_parameters().values())

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised views [2, B, 1, H, W] → features [2B, F] and unit embeddings [2B, D]."""
        feature = self.backbone(views)
        return feature, unit(self.projection_head(feature))

    def pick(self, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """Frames in time order, [B, n]: distinct distances from the first, none above `max_distance`, and a first that fits.

        Clips of fewer than n frames give all of theirs, the last one repeated.
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
        several, where = clips.count[:, None] >= 3, clips.count.device
        if self.mixing == "inner":
            spacing = torch.empty((2, len(several), self.mixing_frames), device=where).exponential_(generator=generator)
            spacing = spacing.masked_fill(torch.arange(self.mixing_frames, device=where) >= clips.count[:, None], 0)
            return torch.where(several, spacing / spacing.sum(2, keepdim=True), self.ends)
        alpha = (torch.full((2, len(several)), value, device=where) for value in self.mixing_beta)
        towards, against = (torch._standard_gamma(value, generator=generator).clamp_min(1e-30) for value in alpha)
        share = (towards / (towards + against))[..., None]                                      # 2 x B x 1, a and b
        return torch.where(several, (1 - share) * self.ends + share * self.middle, self.ends)

    def seen(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> dict[str, View]:
        """Positive pair interpolation: the frames [B, n, 1, H, W] as they are, and what is mixed first, then augmented."""
        weights = self.mixing_weights(clips, generator).to(frames.dtype)
        mixed = torch.einsum("vbn,bnchw->vbchw", weights, frames)
        places, views = tuple(range(frames.shape[1])), self.augment(mixed, clips, generator, dim=1)
        alone = {f"original {place + 1}": View(frames[:, place], (place,)) for place in places}
        return alone | {side: View(view, places, weight[:, :-1])
                        for side, view, weight in zip(("left", "right"), views, weights, strict=True)}

    def pairs(self, frames: torch.Tensor, clips: Clips, generator: torch.Generator) -> torch.Tensor:
        """The two mixed views, normalised: [B, n, 1, H, W] → [2, B, 1, H, W]."""
        seen = self.seen(frames, clips, generator)
        return self.normalised(seen["left"], seen["right"])

    def weight(self, feature: torch.Tensor) -> torch.Tensor:
        """What the weight network says of each pair: [2B, F] → [B] in 0…1. The features take no gradient from it."""
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
        return self.normalised(*super().seen(frames[:, None], clips, self.meta_draw).values())

    def virtual_step(self, loss: torch.Tensor, optimizer: torch.optim.SGD) -> dict[str, torch.Tensor]:
        """θ' = θ − η (μ · buffer + ∇loss + decay · θ): the parameters after a step of the optimiser that is not taken."""
        group, parameters = optimizer.param_groups[0], self.encoder_parameters()
        values = [value.detach() for value in parameters.values()]
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        direction = torch._foreach_add(gradients, values, alpha=group["weight_decay"])
        if optimizer.state:
            buffers = [optimizer.state[value]["momentum_buffer"] for value in parameters.values()]
            torch._foreach_add_(direction, buffers, alpha=group["momentum"])
        after = torch._foreach_add(values, direction, alpha=-group["lr"])
        return {name: value.requires_grad_() for name, value in zip(parameters, after, strict=True)}

    def elsewhere(self, parameters: dict[str, torch.Tensor], views: torch.Tensor) -> torch.Tensor:
        """Embeddings of views under other parameters; the network's buffers stay as they are."""
        buffers = {name: value.clone() for name, value in self.named_buffers()}
        return functional_call(self, parameters | buffers, (views,))[1]

    def meta_gradient(
        self,
        share: torch.Tensor,
        terms: torch.Tensor,
        views: torch.Tensor,
        recorded: Recorded,
        before: list[torch.Tensor],
        optimizer: torch.optim.SGD,
    ) -> torch.Tensor:
        """∂L(θ')/∂share, [B], for θ' the virtual step on Σ shareᵢ ℓᵢ and L the unweighted NT-Xent on a batch of the meta set.

        θ' is linear in the shares, so the gradient is −η ⟨∇L(θ'), ∇ℓᵢ(θ)⟩: one forward-mode pass of all ℓ in the direction
        ∇L(θ'), in place of a graph of second order.

        Args:
            share: normalised pair weights, [B].
            terms: ℓ with its graph, [B]; the graph is kept.
            views: what the terms were computed from.
            recorded: that computation.
            before: state of torch's default streams before that, so that dropout repeats its masks.
            optimizer: the main one, SGD.
        """
        after = self.virtual_step((share.detach() * terms).sum(), optimizer)
        meta_loss = self.terms(self.elsewhere(after, self.meta_views())).mean()
        direction = torch.autograd.grad(meta_loss, list(after.values()))
        self.meta_loss = meta_loss.detach()
        set_random_state(before, views.device)
        with tangents(recorded):
            moving = zip(self.encoder_parameters().items(), direction, strict=True)
            dual = {name: forward_ad.make_dual(value.detach(), tangent) for (name, value), tangent in moving}
            slope = forward_ad.unpack_dual(self.terms(self.elsewhere(dual, views))).tangent     # B
        return -optimizer.param_groups[0]["lr"] * slope

    def before_step(
        self, frames: torch.Tensor, clips: Clips, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """The forward pass that `loss` goes on with and, every `meta_every` steps, a meta step of the weight network."""
        require(isinstance(optimizer, torch.optim.SGD), "params.yaml: methods.meta_uscl.optimizer.name must be sgd, whose step "
                "the meta step looks ahead to")
        views = self.pairs(frames, clips, generator)
        before = random_state(views.device)
        with Recorded() as recorded:
            feature, embedding = self(views)
        terms = self.terms(embedding)
        if self.steps % self.meta_every == 0:
            weight = self.weight(feature)
            share = weight / weight.sum()
            with torch.random.fork_rng([views.device] if views.is_cuda else []):
                gradient = self.meta_gradient(share, terms, views, recorded, before, optimizer)
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
