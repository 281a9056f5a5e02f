"""The losses against loops of their papers' equations, closed forms, and lightly, a second implementation."""

import math

import pytest
import torch

from stages.lib.pretraining.losses import barlow_twins, info_nce, nt_xent, nt_xent_terms, vicreg


@pytest.fixture
def lightly():
    return pytest.importorskip("lightly.loss")


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


@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_the_terms_of_nt_xent_equal_the_loop_with_all_weight_on_their_pair(pairs):
    left, right = unit_rows(pairs, 5), unit_rows(pairs, 5, seed=1)
    terms = nt_xent_terms(left, right, 0.2)
    expected = [nt_xent_loop(left, right, 0.2, [float(i == pair) for i in range(pairs)]) for pair in range(pairs)]
    assert terms.tolist() == pytest.approx(expected, abs=1e-12)


def rows(count, width, seed=0):
    """Rows of any length, correlated columns that differ in mean and spread: [count, width], float64, with a gradient."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=draw, dtype=torch.float64)
    out = torch.randn(count, width, generator=draw, dtype=torch.float64) @ mixing * 0.7 + mixing[0]
    return out.requires_grad_()


def assert_same_with_gradients(loss, expected, *inputs):
    assert torch.allclose(loss, expected, rtol=1e-11, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    for own, other in zip(ours, theirs, strict=True):
        assert own.abs().max() > 1e-6 and torch.allclose(own, other, rtol=1e-8, atol=1e-10)


def info_nce_loop(query, positive, negatives, temperature):
    """Eq. 1 of He et al. 2020, query by query; `negatives`: a list of each query's."""
    total = 0.0
    for q, k, against in zip(query, positive, negatives, strict=True):
        numerator = (q @ k / temperature).exp()
        denominator = numerator
        for other in against:
            denominator = denominator + (q @ other / temperature).exp()
        total = total - (numerator / denominator).log()
    return total / len(query)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("kind", ["shared", "own", "left_out"])
def test_info_nce_equals_the_loop_and_so_does_its_gradient(kind, temperature):
    query, positive = unit_rows(4, 5).requires_grad_(), unit_rows(4, 5, seed=1)
    negatives, left_out = unit_rows(12, 5, seed=2), None
    against = [list(negatives)] * 4
    if kind != "shared":
        negatives = negatives.unflatten(0, (4, 3))
        against = [list(own) for own in negatives]
    if kind == "left_out":
        left_out = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0]], dtype=torch.bool)
        against = [[row for row, out in zip(*pair, strict=True) if not out] for pair in zip(negatives, left_out, strict=True)]
    loss = info_nce(query, positive, negatives, temperature, left_out)
    assert_same_with_gradients(loss, info_nce_loop(query, positive, against, temperature), query)


def test_negatives_of_a_shared_queue_can_be_left_out_for_some_queries_only():
    query, positive, negatives = unit_rows(3, 5), unit_rows(3, 5, seed=1), unit_rows(4, 5, seed=2)
    left_out = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
    against = [[row for row, out in zip(negatives, outs, strict=True) if not out] for outs in left_out]
    loss = info_nce(query, positive, negatives, 0.2, left_out)
    assert float(loss) == pytest.approx(float(info_nce_loop(query, positive, against, 0.2)), abs=1e-12)


@pytest.mark.parametrize("negatives", [1, 5])
def test_info_nce_of_equal_or_orthogonal_vectors_has_a_closed_form(negatives):
    """q = k⁺: log(1 + K) where the negatives equal them, too, log(1 + K exp(−1/τ)) where they are orthogonal, 0 without."""
    axes = torch.eye(3, dtype=torch.float64)
    query, same, across = axes[:1].expand(2, -1), axes[:1].expand(negatives, -1), axes[1:2].expand(negatives, -1)
    nothing = torch.ones(2, negatives, dtype=torch.bool)
    assert float(info_nce(query, query, same, 0.5)) == pytest.approx(math.log(1 + negatives), abs=1e-12)
    assert float(info_nce(query, query, across, 0.5)) == pytest.approx(math.log(1 + negatives * math.exp(-2)), abs=1e-12)
    assert float(info_nce(query, query, same, 0.5, nothing)) == 0


def mean(values):
    return sum(values) / len(values)


def barlow_twins_loop(left, right, off_diagonal_weight):
    """Eq. 1 and 2 of Zbontar et al. 2021; under the root the ε of batch norm, 1e-5, that the authors' code brings in."""
    total, width = 0.0, left.shape[1]
    centred = [[[value - mean(column) for value in column] for column in view.T] for view in (left, right)]
    length = [[(sum(value**2 for value in column) + 1e-5 * len(column)).sqrt() for column in view] for view in centred]
    for i in range(width):
        for j in range(width):
            product = sum(a * b for a, b in zip(centred[0][i], centred[1][j], strict=True))
            correlation = product / (length[0][i] * length[1][j])
            total = total + ((1 - correlation) ** 2 if i == j else off_diagonal_weight * correlation**2)
    return total


def test_barlow_twins_equals_the_loop_and_so_does_its_gradient():
    left, right = rows(6, 3), rows(6, 3, seed=1)
    assert_same_with_gradients(barlow_twins(left, right, 0.3), barlow_twins_loop(left, right, 0.3), left, right)


def uncorrelated():
    """Four columns over eight rows, mean 0, biased deviation 1, correlation 0: Walsh functions."""
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return torch.kron(torch.kron(two, two), two)[:, 1:5]


def test_barlow_twins_has_closed_forms():
    """Of D uncorrelated columns: 0 for equal views, up to the ε of batch norm; 4 D for the negative; D where one view is
    constant; and 2 + 2 λ where two of them are swapped."""
    view = uncorrelated()
    assert float(barlow_twins(view, view, 0.5)) == pytest.approx(0, abs=1e-8)
    assert float(barlow_twins(view, 5 * view - 3, 0.5)) == pytest.approx(0, abs=1e-8)
    assert float(barlow_twins(view, -view, 0.5)) == pytest.approx(4 * 4, abs=1e-3)
    assert float(barlow_twins(view, torch.ones_like(view), 0.5)) == pytest.approx(4, abs=1e-12)
    assert float(barlow_twins(view, view[:, [1, 0, 2, 3]], 0.5)) == pytest.approx(2 + 2 * 0.5, abs=1e-3)


def vicreg_loop(left, right, invariance_weight, variance_weight, covariance_weight, pair_weight):
    """Eq. 1 to 6 of Bardes et al. 2022 with ε 1e-4.

    As in the authors' code, and unlike the paper, the invariance (Eq. 5) is divided by the width, the variance (in Eq. 6) by 2.
    """
    count, width = left.shape
    invariance = sum(
        weight * sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
        for one, other, weight in zip(left, right, pair_weight, strict=True)
    ) / count
    variance, covariance = 0.0, 0.0
    for view in (left, right):
        centred = [[value - mean(column) for value in column] for column in view.T]
        for i in range(width):
            for j in range(width):
                entry = sum(a * b for a, b in zip(centred[i], centred[j], strict=True)) / (count - 1)
                if i == j:
                    variance = variance + (1 - (entry + 1e-4).sqrt()).clamp(min=0) / width
                else:
                    covariance = covariance + entry**2 / width
    return invariance_weight * invariance / width + variance_weight * variance / 2 + covariance_weight * covariance


@pytest.mark.parametrize("pair_weight", [None, [1.0, 0.5, 0.2, 1.0, 0.0, 0.7]])
def test_vicreg_equals_the_loop_and_so_does_its_gradient(pair_weight):
    left, right = rows(6, 3), rows(6, 3, seed=1)
    scale = torch.tensor([0.05, 1.0, 1.0], dtype=torch.float64)     # a column within the hinge, others beyond it
    weight = None if pair_weight is None else torch.tensor(pair_weight, dtype=torch.float64)
    loss = vicreg(left * scale, right * scale, 2.0, 3.0, 0.5, weight)
    expected = vicreg_loop(left * scale, right * scale, 2.0, 3.0, 0.5, pair_weight or [1.0] * 6)
    assert_same_with_gradients(loss, expected, left, right)


def test_vicreg_has_closed_forms():
    """0 for equal, uncorrelated views of a deviation of 1 or more; collapsed views keep the hinge 1 − √ε; views that are one
    column D times have D − 1 covariances of its variance v in each row: 2 (D − 1) v²."""
    view = uncorrelated()
    collapsed = torch.full_like(view, 3.0)
    assert float(vicreg(view, view, 1.0, 1.0, 1.0)) == pytest.approx(0, abs=1e-12)
    assert float(vicreg(collapsed, collapsed, 1.0, 7.0, 1.0)) == pytest.approx(7 * (1 - 0.01), abs=1e-12)
    assert float(vicreg(collapsed, collapsed + 2, 1.0, 0.0, 1.0)) == pytest.approx(4, abs=1e-12)
    same = view[:, :1].expand(-1, 4)
    assert float(vicreg(same, same, 1.0, 1.0, 1.0)) == pytest.approx(2 * 3 * (8 / 7) ** 2, abs=1e-12)


def test_pair_weights_touch_only_the_invariance_of_vicreg():
    left, right, weight = rows(6, 3), rows(6, 3, seed=1), torch.linspace(0.1, 1, 6, dtype=torch.float64)
    assert torch.equal(vicreg(left, right, 0.0, 1.0, 1.0, weight), vicreg(left, right, 0.0, 1.0, 1.0))
    alone = [vicreg(left, right, 1.0, 0.0, 0.0, torch.eye(6, dtype=torch.float64)[pair]) for pair in range(6)]
    weighted = sum(float(share) * part for share, part in zip(weight, alone, strict=True))
    assert torch.allclose(vicreg(left, right, 1.0, 0.0, 0.0, weight), weighted)


def test_nt_xent_equals_lightly(lightly):
    left, right = unit_rows(6, 5).requires_grad_(), unit_rows(6, 5, seed=1).requires_grad_()
    for temperature in (0.1, 0.5):
        assert torch.allclose(nt_xent(left, right, temperature), lightly.NTXentLoss(temperature)(left, right), rtol=1e-12)


def test_barlow_twins_equals_lightly(lightly):
    """The same scale: neither divides by the width, both standardise by the biased deviation with ε 1e-5."""
    left, right = rows(7, 4), rows(7, 4, seed=1)
    assert_same_with_gradients(barlow_twins(left, right, 5e-3), lightly.BarlowTwinsLoss()(left, right), left, right)
    assert_same_with_gradients(barlow_twins(left, right, 0.3), lightly.BarlowTwinsLoss(0.3)(left, right), left, right)


def test_vicreg_equals_lightly(lightly):
    """The same scale: lightly, too, divides the invariance by the width and halves the variance, as the authors' code does."""
    left, right = rows(7, 4), rows(7, 4, seed=1)
    for weights in ((25.0, 25.0, 1.0), (2.0, 3.0, 0.5)):
        expected = lightly.VICRegLoss(*weights)(left * 0.2, right * 0.2)
        assert_same_with_gradients(vicreg(left * 0.2, right * 0.2, *weights), expected, left, right)
