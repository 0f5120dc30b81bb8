import numpy as np
import pytest
import references
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsalmask.errors import InputError
from mmsalmask.losses import contrast_logits, info_nce


def embeddings(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


@given(
    st.integers(1, 6),
    st.integers(0, 9),
    st.integers(0, 3),
    st.floats(0.1, 1.0),
    st.floats(0, 3),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=100)
def test_loss_is_the_formula_written_out(number, queue, hard, temperature, penalty, seed):
    query, key = embeddings(number, 8, seed=seed), embeddings(number, 8, seed=seed + 1)
    negatives = embeddings(queue, 8, seed=seed + 2)
    own = embeddings(number, hard, 8, seed=seed + 3) if hard else None
    loss = info_nce(query, key, negatives, own, penalty, temperature)
    expected = references.info_nce(
        query.double().numpy(),
        key.double().numpy(),
        negatives.double().numpy(),
        None if own is None else own.double().numpy(),
        penalty,
        temperature,
    )
    assert abs(loss.item() - expected) < 1e-4 * max(1.0, abs(expected))


def test_one_hard_negative_may_be_given_without_its_axis():
    query, key, negatives, hard = (embeddings(4, 8, seed=i) for i in range(4))
    assert torch.equal(
        info_nce(query, key, negatives, hard), info_nce(query, key, negatives, hard[:, None])
    )


def test_weights_scale_each_querys_loss_before_the_mean():
    query, key, negatives = (embeddings(4, 8, seed=i) for i in range(3))
    weight = torch.tensor([0.0, 0.5, 1.0, 2.0])
    own = [info_nce(query[i, None], key[i, None], negatives) for i in range(4)]
    expected = (weight * torch.stack(own)).mean()
    torch.testing.assert_close(info_nce(query, key, negatives, weight=weight), expected)


def test_each_image_meets_its_own_hard_negative_alone():
    query, key, negatives, hard = (embeddings(4, 8, seed=i) for i in range(4))
    hard.requires_grad_()
    logits = contrast_logits(query, key, negatives, hard)
    assert logits.shape == (4, 1 + 4 + 1)
    assert torch.allclose(logits[:, -1], 2.0 * (query * hard).sum(1) / 0.2, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[2, -1], hard)
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


def test_penalty_acts_on_the_hard_negative_and_nothing_else():
    query, key, negatives, hard = (embeddings(4, 8, seed=i) for i in range(4))
    plain = contrast_logits(query, key, negatives)
    for penalty in (0.0, 1.0, 2.0):
        logits = contrast_logits(query, key, negatives, hard, penalty)
        assert torch.equal(logits[:, :-1], plain)
    assert info_nce(query, query, negatives, query) > info_nce(query, query, negatives)


def test_gradients_agree_with_finite_differences_of_the_reference():
    query, key, negatives = (embeddings(3, 6, seed=i) for i in range(3))
    hard = embeddings(3, 2, 6, seed=5)
    query.requires_grad_()
    info_nce(query, key, negatives, hard, temperature=0.5).backward()
    others = [x.double().numpy() for x in (key, negatives, hard)]
    base = query.detach().double().numpy()
    for i, d in np.ndindex(3, 6):
        step = np.zeros_like(base)
        step[i, d] = 1e-5
        up = references.info_nce(base + step, *others, temperature=0.5)
        down = references.info_nce(base - step, *others, temperature=0.5)
        assert abs(query.grad[i, d].item() - (up - down) / 2e-5) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_temperatures_survive_half_precision_and_autocast(dtype):
    query, key, negatives = (embeddings(8, 16, seed=i) for i in range(3))
    exact = info_nce(query, key, negatives, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(query, key, negatives, temperature=0.01), exact)
    half = info_nce(query.to(dtype), key.to(dtype), negatives.to(dtype), temperature=0.01)
    assert torch.isfinite(half)
    assert half.dtype == torch.float32
    assert abs(half - exact) < 0.05 * exact


def test_bad_input_is_refused():
    query = embeddings(4, 8)
    with pytest.raises(InputError, match="temperature must be positive"):
        info_nce(query, query, query, temperature=0.0)
    with pytest.raises(InputError, match="4 queries, 3 rows of hard negatives"):
        info_nce(query, query, query, query[:3])


def test_embeddings_of_other_shapes_are_refused_by_name():
    query, queue = embeddings(4, 8), embeddings(20, 8)
    with pytest.raises(InputError, match=r"rows \(K, 8\).* got \(8, 20\): transpose the queue"):
        info_nce(query, query, queue.t())
    with pytest.raises(InputError, match=r"rows \(K, 8\), as long as a query, got \(20, 7\)$"):
        info_nce(query, query, queue[:, :7])
    with pytest.raises(InputError, match=r"of the same shape, got \(4, 8\) and \(3, 8\)"):
        info_nce(query, query[:3], queue)
    with pytest.raises(InputError, match=r"of the same shape, got \(4, 8\) and \(1, 8\)"):
        info_nce(query, query[:1], queue)
    with pytest.raises(InputError, match=r"hard negatives are .* got \(4, 4\)"):
        info_nce(query, query, queue, query[:, :4])
