"""Mask R-CNN from torchvision's parts on one of our backbones, for grey images and one kind of object."""

import torch
import torchvision
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import masks_to_boxes

from stages.lib.networks.backbone import Backbone
from stages.lib.params import require

CLASSES = 2  # background, lesion
LEVELS = 5  # of the feature pyramid: the four blocks of a ResNet, and the last one pooled (Lin et al. 2017)


def mask_rcnn(
    backbone: Backbone, input_px: int, pyramid_width: int, anchors: list, proposals: int, mean: float, std: float
) -> MaskRCNN:
    """Mask R-CNN (He et al. 2017); its heads are as narrow as the pyramid, with a `pyramid_width` of 256 the published ones.

    Args:
        input_px: side to which an image is enlarged.
        pyramid_width: channels of the feature pyramid and of the heads on it.
        anchors: side of the anchor boxes on each of the LEVELS, as fractions of the image's.
        proposals: regions per image that go on from the first stage to the second.
        mean, std: of the grey values (0 to 1), subtracted and divided by.

    Raises:
        UserError: a backbone that is no ResNet, or impossible sizes.
    """
    require_resnet(backbone)
    for name, value, least in (("input_px", input_px, 32), ("pyramid_width", pyramid_width, 1), ("proposals", proposals, 1)):
        require(value >= least, f"params.yaml: segment.{name} is {value}; it must be at least {least}")
    fractions = all(isinstance(size, (int, float)) and 0 < size <= 1 for size in anchors)
    require(fractions and len(anchors) == LEVELS, f"params.yaml: segment.anchors is {anchors}; it needs {LEVELS} numbers, each "
            "above 0 and up to 1")
    layers = {f"layer{number}": str(number - 1) for number in range(1, LEVELS)}
    widths = [backbone.network.inplanes >> halvings for halvings in (3, 2, 1, 0)]
    return MaskRCNN(
        BackboneWithFPN(backbone.network, layers, widths, pyramid_width),
        box_head=TwoMLPHead(pyramid_width * 7**2, 4 * pyramid_width),           # of regions resampled to 7 x 7
        box_predictor=FastRCNNPredictor(4 * pyramid_width, CLASSES),
        mask_head=MaskRCNNHeads(pyramid_width, [pyramid_width] * 4, 1),
        mask_predictor=MaskRCNNPredictor(pyramid_width, pyramid_width, CLASSES),
        min_size=input_px,
        max_size=input_px,
        image_mean=[mean] * 3,
        image_std=[std] * 3,
        rpn_anchor_generator=AnchorGenerator(tuple((size * input_px,) for size in anchors), ((0.5, 1.0, 2.0),) * LEVELS),
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_batch_size_per_image=proposals,
    )


def require_resnet(backbone: Backbone) -> None:
    """Raise UserError for any other backbone."""
    require(isinstance(backbone.network, torchvision.models.ResNet), f"params.yaml: pretrain.arch is {backbone.arch!r}; "
            "segment needs a ResNet, such as resnet18")


def targets(lesions: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """What Mask R-CNN learns of each lesion map [B, 1, H, W]: boxes [K, 4], labels [K] and masks [K, H, W]."""
    found = []
    for image in lesions:
        numbers = image.unique()
        inside = image == numbers[numbers > 0][:, None, None]                   # K x H x W
        boxes = masks_to_boxes(inside) + image.new_tensor([0, 0, 1, 1])         # to the last pixel's far edge
        found.append({"boxes": boxes.float(), "labels": torch.ones_like(numbers[numbers > 0], dtype=torch.long),
                      "masks": inside.to(torch.uint8)})
    return found
