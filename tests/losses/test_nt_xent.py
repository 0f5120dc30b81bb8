import math

import numpy as np
import pytest
import references
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.errors import InputError
from mmsalmask.losses import nt_xent, nt_xent_logits


def embeddings(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def numpy(*tensors):
    return [None if tensor is None else tensor.detach().double().numpy() for tensor in tensors]


@given(
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0.1, 1.0),
    st.floats(0, 3),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=80)
def test_loss_is_the_formula_written_out(number, outside, hard, cut, temperature, penalty, seed):
    first, second = embeddings(number, 8, seed=seed), embeddings(number, 8, seed=seed + 1)
    negatives = embeddings(outside, 8, seed=seed + 2) if outside else None
    own = embeddings(number, hard, 8, seed=seed + 3) if hard else None
    crops = embeddings(cut * number, 8, seed=seed + 4) if cut else None
    loss = nt_xent(first, second, own, penalty, temperature, negatives, crops)
    f, s, h, n, c = numpy(first, second, own, negatives, crops)
    parts = np.split(c, cut) if cut else ()
    expected = references.nt_xent(f, s, h, penalty, temperature, () if n is None else n, parts)
    assert loss.shape == ()
    assert abs(loss.item() - expected) < 1e-4 * max(1.0, abs(expected))


@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_loss_knows_neither_the_order_of_images_nor_of_views(number, hard, seed):
    first, second = embeddings(number, 8, seed=seed), embeddings(number, 8, seed=seed + 1)
    own = embeddings(number, hard, 8, seed=seed + 2)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    loss = nt_xent(first, second, own)
    assert torch.allclose(nt_xent(second, first, own), loss, atol=1e-5)
    assert torch.allclose(nt_xent(first[order], second[order], own[order]), loss, atol=1e-5)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_a_batch_may_be_split_when_the_rest_are_negatives(number, rest, seed):
    """What makes several processes one: the mean over parts is the loss of the whole."""
    sizes = (number, rest)
    first, second, own = (embeddings(sum(sizes), 8, seed=seed + i) for i in range(3))
    parts = list(zip(*(x.split(sizes) for x in (first, second, own)), strict=True))
    total = 0.0
    for i, part in enumerate(parts):
        other = torch.cat(parts[1 - i][:2])
        total += len(part[0]) * nt_xent(*part, negatives=other).item()
    assert total / sum(sizes) == pytest.approx(nt_xent(first, second, own).item(), abs=1e-4)


def test_a_transposed_queue_of_negatives_is_refused():
    first, second, queue = embeddings(4, 8), embeddings(4, 8, seed=1), embeddings(20, 8, seed=2)
    with pytest.raises(InputError, match=r"negatives are rows \(K, 8\), got \(8, 20\)"):
        nt_xent(first, second, negatives=queue.t())


def test_logits_hold_the_positive_the_batch_and_the_hard_negatives_in_this_order():
    first, second, negatives, own = (embeddings(3, 8, seed=i) for i in range(4))
    logits = nt_xent_logits(first, second, own, 2.0, 0.1, negatives)
    assert logits.shape == (6, 1 + 6 + 3 + 1)
    batch = torch.cat([first, second])
    assert torch.allclose(logits[:, 0], (first * second).sum(1).repeat(2) / 0.1, atol=1e-5)
    own_image = torch.eye(3, dtype=torch.bool).repeat(2, 2)
    similar = logits[:, 1:7]
    assert torch.isneginf(similar[own_image]).all()
    assert torch.allclose(similar[~own_image], (batch @ batch.t() / 0.1)[~own_image], atol=1e-5)
    assert torch.allclose(logits[:, 7:10], batch @ negatives.t() / 0.1, atol=1e-5)
    assert torch.allclose(logits[:, 10], 2.0 * (batch * own.repeat(2, 1)).sum(1) / 0.1, atol=1e-5)


def test_a_hard_negative_meets_both_views_of_its_image_and_no_other():
    first, second, own = (embeddings(4, 8, seed=i) for i in range(3))
    own.requires_grad_()
    logits = nt_xent_logits(first, second, own)
    for anchor in range(8):
        (gradient,) = torch.autograd.grad(logits[anchor, -1], own, retain_graph=True)
        assert gradient.abs().sum(1).gt(0).tolist() == [image == anchor % 4 for image in range(4)]


def test_crops_teach_by_the_second_view_alone_and_are_no_negatives():
    """The rows of the views are as they are without crops; the positive is the second view's."""
    first, second = embeddings(4, 8), embeddings(4, 8, seed=1)
    crops = embeddings(8, 8, seed=2)
    logits = nt_xent_logits(first, second, crops=crops, temperature=0.1)
    assert logits.shape == (16, 9)
    assert torch.equal(logits[:8], nt_xent_logits(first, second, temperature=0.1))
    positives = (crops * second.repeat(2, 1)).sum(1) / 0.1
    assert torch.allclose(logits[8:, 0], positives, atol=1e-5)
    own = torch.eye(4, dtype=torch.bool).repeat(2, 2)
    assert torch.equal(torch.isneginf(logits[8:, 1:]), own)


def test_one_hard_negative_may_be_given_without_its_axis():
    first, second, own = (embeddings(4, 8, seed=i) for i in range(3))
    assert torch.equal(nt_xent(first, second, own), nt_xent(first, second, own[:, None]))


def test_gradients_agree_with_finite_differences_of_the_reference():
    tensors = [embeddings(3, 5, seed=0), embeddings(3, 5, seed=1), embeddings(3, 2, 5, seed=2)]
    for tensor in tensors:
        tensor.requires_grad_()
    nt_xent(*tensors, temperature=0.5).backward()
    for position, tensor in enumerate(tensors):
        for index in np.ndindex(*tensor.shape):
            values = []
            for sign in (1, -1):
                moved = numpy(*tensors)
                moved[position][index] += sign * 1e-5
                values.append(references.nt_xent(*moved, temperature=0.5))
            slope = (values[0] - values[1]) / 2e-5
            assert abs(tensor.grad[index].item() - slope) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_temperatures_survive_half_precision_and_autocast(dtype):
    first, second, own = (embeddings(8, 16, seed=i) for i in range(3))
    exact = nt_xent(first, second, own, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(first, second, own, temperature=0.01), exact)
    half = [x.to(dtype).requires_grad_() for x in (first, second, own)]
    loss = nt_xent(*half, temperature=0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 0.05 * exact
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0 for x in half)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_worst_logits_are_finite(dtype):
    """Positives opposite (−1/τ) and, of the first views, hard negatives equal to them (+ρ/τ)."""
    first = torch.eye(4, 8, dtype=dtype).requires_grad_()
    loss = nt_xent(first, -first, first, temperature=0.01)
    # Of 8 anchors, first views lose 200 + 100; second views have 6 negatives at 0 and lose 100.
    assert loss.item() == pytest.approx((300 + 100 + math.log(6)) / 2, rel=1e-4)
    loss.backward()
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((embeddings(4, 8), embeddings(3, 8)), r"got \(4, 8\) and \(3, 8\)"),
        ((embeddings(4, 2, 8), embeddings(4, 2, 8)), r"embeddings \(N, D\) of the same shape"),
        ((embeddings(4, 8), embeddings(4, 8), embeddings(3, 8)), "4 images, 3 rows of hard"),
        (
            (embeddings(4, 8), embeddings(4, 8), None, 2.0, 0.1, None, embeddings(6, 8)),
            r"crops are rows \(L·4, 8\), as many of every image, got \(6, 8\)",
        ),
        (
            (embeddings(4, 8), embeddings(4, 8), None, 2.0, 0.1, None, embeddings(2, 4, 8)),
            r"crops are rows \(L·4, 8\), as many of every image, got \(2, 4, 8\)",
        ),
        ((embeddings(4, 8), embeddings(4, 8), None, 2.0, 0.0), "temperature must be positive"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        nt_xent(*arguments)
