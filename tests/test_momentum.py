"""The key encoder against its recurrence, the queue against a deque."""

import random
from collections import deque

import pytest
import torch
from test_methods import build, clip_sets
from torch import nn

from stages.lib.pretraining.measures import held_out_loss
from stages.lib.pretraining.momentum import KeyEncoder, Queue


@pytest.fixture
def query_encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()


def rows(count, width=3):
    return torch.randn(count, width, dtype=torch.float64)


def shift(encoder):
    """Move the weights, as a step of the optimiser would."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_key_encoder_begins_as_a_copy_that_shares_no_memory(query_encoder):
    key_encoder, views = KeyEncoder(query_encoder), rows(5)
    before = key_encoder(views)
    assert torch.equal(before, query_encoder(views))
    shift(query_encoder)
    assert torch.equal(key_encoder(views), before)
    assert not torch.equal(query_encoder(views), before)


def test_the_key_encoder_takes_no_gradient_even_from_views_that_want_one(query_encoder):
    key_encoder = KeyEncoder(query_encoder)
    assert not key_encoder(rows(5).requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in key_encoder.parameters())
    assert all(parameter.requires_grad for parameter in query_encoder.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999, 1.0])
def test_the_key_encoder_moves_as_eq_2_says(query_encoder, momentum):
    key_encoder = KeyEncoder(query_encoder)
    expected = {name: value.detach().clone() for name, value in query_encoder.named_parameters()}
    for _ in range(3):
        shift(query_encoder)
        key_encoder.follow(query_encoder, momentum)
        for name, value in query_encoder.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * value.detach()
    for name, value in key_encoder.encoder.named_parameters():
        assert torch.allclose(value, expected[name], rtol=1e-14, atol=1e-14), name


def test_following_leaves_the_query_encoder_where_it_is(query_encoder):
    key_encoder = KeyEncoder(query_encoder)
    shift(query_encoder)
    before = {name: value.clone() for name, value in query_encoder.state_dict().items()}
    key_encoder.follow(query_encoder, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in query_encoder.state_dict().items())


def test_running_statistics_are_of_what_each_encoder_saw(query_encoder):
    """Batch norm's momentum is 0.1: after a batch the running mean is a tenth of the batch's, before as after following."""
    key_encoder, seen, keys = KeyEncoder(query_encoder), rows(6), rows(6) + 5
    first = query_encoder[0]
    expected = [0.1 * first(views).detach().mean(0) for views in (seen, keys)]
    query_encoder(seen), key_encoder(keys)
    key_encoder.follow(query_encoder, 0.5)
    for encoder, mean in zip((query_encoder, key_encoder.encoder), expected, strict=True):
        assert torch.allclose(encoder[1].running_mean, mean)
    assert not torch.allclose(*expected)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("seed", range(5))
def test_the_queue_is_a_deque_of_keys_and_their_clips(size, seed):
    """Batches of 0 to more than two queues, of lengths that do not divide its size; which place a key has does not matter."""
    torch.manual_seed(seed)
    queue, lengths = Queue(size, 2).double(), random.Random(seed)
    model = deque(zip(map(tuple, queue.embedding.tolist()), [-1] * size, strict=True), maxlen=size)
    for _ in range(20):
        keys, clip = rows(lengths.randint(0, 2 * size + 1), 2), torch.randint(100, (2 * size + 1,))
        clip = clip[: len(keys)]
        queue.push(keys, clip)
        model.extend(zip(map(tuple, keys.tolist()), clip.tolist(), strict=True))
        held = zip(map(tuple, queue.embedding.tolist()), queue.clip.tolist(), strict=True)
        assert sorted(held) == sorted(model)


def test_a_queue_that_is_saved_and_loaded_goes_on_alike():
    queue, keys = Queue(5, 2).double(), rows(9, 2)
    queue.push(keys[:3], torch.arange(3))
    other = Queue(5, 2).double()
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(keys[3:], torch.arange(6))
    assert torch.equal(queue.embedding, other.embedding) and torch.equal(queue.clip, other.clip)


def test_a_queue_begins_with_unit_keys_of_no_clip():
    queue = Queue(50, 8)
    assert torch.allclose(queue.embedding.norm(dim=1), torch.ones(50))
    assert not queue.own(torch.arange(20)).any()


def test_own_keys_are_those_of_the_same_clip():
    queue, clip = Queue(6, 2), [3, 8, 3, 5]
    queue.push(torch.rand(4, 2), torch.tensor(clip))
    asked = [3, 5, 7]
    assert queue.own(torch.tensor(asked)).tolist() == [[mine == other for other in [*clip, -1, -1]] for mine in asked]


def test_a_queue_takes_keys_of_half_precision_and_keeps_its_own():
    queue, keys = Queue(4, 2), torch.rand(2, 2).bfloat16()
    queue.push(keys, torch.tensor([1, 2]))
    assert queue.embedding.dtype == torch.float32 and torch.equal(queue.embedding[:2], keys.float())


def test_the_held_out_loss_leaves_queue_and_key_encoder_untouched(workspace, draw):
    train, held_out = clip_sets(workspace)
    model = build("moco_v2", train)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert held_out_loss(model, held_out, 2, draw) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    model.train()
    model.loss(*next(train.batches(4, model.pick, draw)), draw)
    model.after_step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"queue.embedding", "queue.clip", "queue.next", "key_encoder.encoder.0.network.bn1.running_mean"} <= changed
