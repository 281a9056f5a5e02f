"""NT-Xent against the loop of Eq. 1 and closed forms."""

import math

import pytest
import torch

from stages.lib.losses import nt_xent


def unit_rows(rows, width, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=draw, dtype=torch.float64), dim=1)


def nt_xent_loop(left, right, temperature, pair_weight):
    """Eq. 1 of Chen et al. 2020, term by term."""
    embedding = [*left, *right]
    pairs = len(left)
    total = 0.0
    for i, own in enumerate(embedding):
        partner = (i + pairs) % (2 * pairs)
        numerator = math.exp(float(own @ embedding[partner]) / temperature)
        denominator = sum(math.exp(float(own @ other) / temperature) for k, other in enumerate(embedding) if k != i)
        total += pair_weight[i % pairs] * -math.log(numerator / denominator)
    return total / (2 * sum(pair_weight))


@pytest.mark.parametrize("pairs", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_nt_xent_equals_the_loop(pairs, temperature):
    left, right = unit_rows(pairs, 5), unit_rows(pairs, 5, seed=1)
    expected = nt_xent_loop(left, right, temperature, [1.0] * pairs)
    assert float(nt_xent(left, right, temperature)) == pytest.approx(expected, abs=1e-12)


def test_weighted_nt_xent_equals_the_loop():
    left, right, weight = unit_rows(6, 4), unit_rows(6, 4, seed=1), torch.arange(6, dtype=torch.float64)
    expected = nt_xent_loop(left, right, 0.5, weight.tolist())
    assert float(nt_xent(left, right, 0.5, weight)) == pytest.approx(expected, abs=1e-12)


def test_equal_weights_are_the_plain_mean():
    left, right = unit_rows(6, 4), unit_rows(6, 4, seed=1)
    assert torch.allclose(nt_xent(left, right, 0.5, torch.full((6,), 3.0)), nt_xent(left, right, 0.5))


@pytest.mark.parametrize("pairs", [1, 2, 9])
def test_equal_embeddings_give_log_of_the_candidates(pairs):
    same = unit_rows(1, 4).expand(pairs, -1)
    assert float(nt_xent(same, same, 0.5)) == pytest.approx(math.log(2 * pairs - 1), abs=1e-12)


def test_the_order_of_the_views_does_not_matter():
    left, right = unit_rows(5, 4), unit_rows(5, 4, seed=1)
    assert torch.allclose(nt_xent(left, right, 0.2), nt_xent(right, left, 0.2))
