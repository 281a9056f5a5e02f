"""How a network is fine-tuned: number of passes, the classifier alone at first, the backbone's own learning rate."""

import pytest
import torch
from torch import nn

from stages.lib.evaluation.fine_tuning import Recipe, fit
from stages.lib.evaluation.preparation import TaskFrames
from stages.lib.training.views import Views

VIEWS = Views(crop_scale=[1.0, 1.0], crop_ratio=[1.0, 1.0], flip_probability=0.0, brightness=0.0, contrast=0.0, mean=0.5,
              std=0.25)
SGD = {"name": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "warmup_fraction": 0.0, "constant_fraction": 1.0,
       "gradient_norm": None}


def recipe(**given):
    settings = {"arch": "shufflenet_v2_x0_5", "init": "random", "trainable": "all", "classes": ["a", "b"], "epochs": 2,
                "min_steps": 0, "head_first": 0.0, "backbone_rate": 1.0, "measure_every": 1, "batch_size": 4,
                "optimizer": SGD, "views": VIEWS, "frozen_statistics": "fixed"}
    return Recipe(**settings | given)


@pytest.fixture
def frames():
    grey = torch.randint(0, 256, (9, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TaskFrames(grey, torch.arange(9) % 2, None)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in module.parameters()])


@pytest.mark.parametrize(("count", "min_steps", "passes"), [(9, 0, 2), (9, 4, 2), (9, 5, 3), (10, 7, 3), (3, 10, 10)])
def test_few_frames_get_more_passes(count, min_steps, passes):
    """Batches of 4: nine frames make two steps, as a batch of one is left out; ten make three."""
    assert recipe(min_steps=min_steps).passes(count) == passes


def test_as_many_passes_are_made_as_said(frames):
    assert len(list(fit(recipe(min_steps=5), frames, torch.arange(9), 0))) == 3


@pytest.mark.parametrize("trainable", ["all", "last_block"])
def test_the_classifier_trains_alone_at_first(frames, trainable):
    """In the first half only the classifier changes, batch norm's statistics neither; in the second half the rest does."""
    run = fit(recipe(head_first=0.5, trainable=trainable), frames, torch.arange(9), 0)
    network, _ = next(run)
    backbone, head = weights(network.backbone), weights(network.linear)
    statistics = [buffer.clone() for buffer in network.backbone.buffers()]
    untrained = recipe().network(0)
    assert torch.equal(backbone, weights(untrained.backbone)) and not torch.equal(head, weights(untrained.linear))
    next(run)
    trained = torch.cat([torch.full((weight.numel(),), weight.requires_grad) for weight in network.backbone.parameters()])
    changed = backbone != weights(network.backbone)
    assert changed.any() and not changed[~trained].any()
    assert any(not torch.equal(before, after) for before, after in zip(statistics, network.backbone.buffers(), strict=True))


def test_the_backbone_learns_at_its_own_rate(frames):
    """The first step of gradient descent is proportional to the rate."""
    moved = {}
    for rate in (1.0, 0.25):
        before = recipe().network(0)
        network, _ = next(fit(recipe(epochs=1, backbone_rate=rate, batch_size=9), frames, torch.arange(9), 0))
        moved[rate] = [weights(part) - weights(start) for part, start in
                       ((network.backbone, before.backbone), (network.linear, before.linear))]
    assert moved[1.0][0].abs().max() > 1e-4
    assert torch.allclose(moved[0.25][0], 0.25 * moved[1.0][0], atol=1e-7)     # float32 weights of size 1
    assert torch.equal(moved[0.25][1], moved[1.0][1])
