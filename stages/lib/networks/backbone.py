"""Networks: any torchvision classifier as a backbone for grey frames, and the classifier on it."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
import torchvision
from annotated_types import Ge, Lt
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import nn
from torch.func import functional_call
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import Encoder

from stages.lib.params import Count, UserError, require
from stages.lib.training import distributed

ARCHS = torchvision.models.list_models(module=torchvision.models)
SIZES_PX = (32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 384, 512)     # tried for the message about a size that does not fit


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 if the hardware computes in it, else single precision; docs/performance.md says where that is faster."""
    on_cpu = torch.ops.mkldnn._is_mkldnn_bf16_supported         # older GPUs emulate it, slower than single precision
    capable = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else on_cpu()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=capable)


def _known(arch: str) -> str:
    if arch not in ARCHS:
        raise PydanticCustomError("arch", f"one of {', '.join(ARCHS)}")
    return arch


Arch = Annotated[str, AfterValidator(_known)]
Dropout = Annotated[float, Ge(0), Lt(1)]


class Backbone(nn.Module):
    """A torchvision classifier without its last linear layer: grey frames [N, 1, H, W] → features [N, feature_width].

    k views of B clips, [k, B, 1, H, W], or [B, k, 1, H, W] with `dim` 0, give [k · B, feature_width] in that order. Under
    torchrun each rank gives the views of its own clips and gets the features of all clips.

    The network keeps torchvision's three input channels and key names, so that weights can be exchanged unchanged; each
    channel gets the same grey frame. It computes in bfloat16 if the hardware does. Features, heads and losses have the
    precision of the weights.

    Raises:
        UserError: `arch` is no classifier of torchvision, or does not end in a linear layer.
    """

    def __init__(self, arch: str):
        super().__init__()
        require(arch in ARCHS, f"params.yaml: pretrain.arch is {arch!r}; choose from {', '.join(ARCHS)}")
        self.arch = arch
        self.network = torchvision.models.get_model(arch, weights=None)
        names = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        if not names or getattr(self.network, "aux_logits", False):
            raise UserError(f"params.yaml: pretrain.arch {arch!r} does not end in one linear layer; choose another")
        self.feature_width = self.network.get_submodule(names[-1]).in_features
        self.classifier = names[-1]         # torchvision's name of the layer that is removed
        self.network.set_submodule(self.classifier, nn.Identity())
        self.network.to(memory_format=torch.channels_last)

    def forward(self, frames: torch.Tensor, dim: int = 1) -> torch.Tensor:
        three = frames.flatten(0, -4).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)   # N x 3 x H x W
        with autocast(frames.device):
            feature = self._features(three)                                                     # N x F
        feature = feature.float() if feature.dtype == torch.bfloat16 else feature
        if frames.dim() == 4:
            return feature
        return distributed.everyones(feature.unflatten(0, frames.shape[:2]), dim).flatten(0, 1)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        """Features of [N, 3, H, W]."""
        if not isinstance(self.network, VisionTransformer):
            return self.network(frames)
        fitting = self._positions(frames.shape[-1])
        self.network.image_size = frames.shape[-1]
        if fitting is self.network.encoder.pos_embedding:
            return self.network(frames)
        return functional_call(self.network, {"encoder.pos_embedding": fitting}, frames)

    def _positions(self, size_px: int) -> torch.Tensor:
        """Position embeddings of a vision transformer for frames of this side, interpolated from its own (Dosovitskiy et al.
        2021, section 3.2): [1, 1 + places, F]."""
        if size_px % self.network.patch_size:
            raise ValueError("a vision transformer needs a whole number of patches")
        kept = self.network.encoder.pos_embedding                                               # 1 x (1 + places) x F
        side, wanted = math.isqrt(kept.shape[1] - 1), size_px // self.network.patch_size
        if side == wanted:
            return kept
        grid = kept[:, 1:].transpose(1, 2).unflatten(2, (side, side))                           # 1 x F x side x side
        grid = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=True)
        return torch.cat([kept[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    @torch.no_grad()
    def fix_size(self, size_px: int) -> None:
        """Let `network` alone take frames of this side: a vision transformer gets position embeddings for it for good."""
        if isinstance(self.network, VisionTransformer):
            self.network.encoder.pos_embedding = nn.Parameter(self._positions(size_px))
            self.network.image_size = size_px

    @torch.no_grad()
    def require_size(self, size_px: int) -> None:
        """Raise UserError if the network cannot take frames of this side."""
        if not self._takes(size_px):
            sizes = ", ".join(str(size) for size in SIZES_PX if self._takes(size))
            raise UserError(f"params.yaml: pretrain.arch {self.arch!r} cannot take frames of {size_px} px; of some that were "
                            f"tried it takes {sizes or 'none'}: set extract_frames.size_px, or choose another network")

    def _takes(self, size_px: int) -> bool:
        training, place = self.training, next(self.parameters())
        try:
            feature = self.eval()(place.new_zeros(2, 1, size_px, size_px))
        except (RuntimeError, AssertionError, ValueError):
            return False
        finally:
            self.train(training)
        return feature.shape == (2, self.feature_width)

    def train_only(self, part: str, key: str = "finetune.trainable") -> None:
        """Freeze all of the backbone but `part`.

        Args:
            part: last_block; all; head: freeze the whole backbone.
            key: of `part` in params.yaml, for the error message.
        """
        parts = {"head": nn.Identity(), "last_block": self.last_block(), "all": self}
        require(part in parts, f"params.yaml: {key} is {part!r}; choose from {', '.join(parts)}")
        self.requires_grad_(False)
        parts[part].requires_grad_(True)

    def last_block(self) -> nn.Module:
        """The last block of layers before the classifier: `layer4[1]` of ResNet-18, the last encoder layer of a transformer."""
        head = self.classifier.partition(".")[0]
        children = [child for name, child in self.network.named_children() if name != head and _has_weights(child)]
        while True:
            block = ([child for child in children if _has_parts(child)] or children)[-1]    # not the norm after the blocks
            block = block.layers if isinstance(block, Encoder) else block
            children = [child for child in block.children() if _has_weights(child)]
            if not any(map(_has_parts, children)) or not isinstance(block, nn.Sequential):
                return block


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def train_mode(network: nn.Module, frozen_statistics: str) -> None:
    """Set a network to training. Frozen modules, whose weights want no gradient, stay in evaluation mode.

    Args:
        frozen_statistics: fixed: frozen batch norm keeps its running statistics and normalises with them. updated: it follows
            the training batches, as in the code that the papers published.
    """
    network.train()
    if frozen_statistics == "fixed":
        for module in network.modules():
            if _has_weights(module) and not any(weight.requires_grad for weight in module.parameters()):
                module.eval()


class Classifier(nn.Module):
    """A backbone and a classifier head: grey frames [B, 1, H, W] → logits [B, classes].

    Args:
        hidden_width: of a hidden layer with ReLU and dropout before the last one; None: one linear layer.
        dropout: probability with which a hidden unit is set to 0 in training.
    """

    def __init__(self, backbone: Backbone, classes: int, hidden_width: Count | None = None, dropout: Dropout = 0.0):
        super().__init__()
        self.backbone = backbone
        width = backbone.feature_width if hidden_width is None else hidden_width
        self.linear = nn.Linear(width, classes)
        if hidden_width is not None:
            hidden = nn.Linear(backbone.feature_width, hidden_width)
            self.linear = nn.Sequential(hidden, nn.ReLU(inplace=True), nn.Dropout(dropout), self.linear)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.linear(self.backbone(frames))

    def train_only(self, part: str) -> None:
        """Freeze all of the backbone but `part`: last_block, all, or head (none of it). Frozen layers build no graph."""
        self.backbone.train_only(part)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the whole network under torchvision's key names; the linear layer takes the name of its last one."""
        last = {f"{self.backbone.classifier}.{key}": value for key, value in self.linear.state_dict().items()}
        return self.backbone.network.state_dict() | last
