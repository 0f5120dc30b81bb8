import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmsalmask.errors import InputError
from mmsalmask.evaluation import extract_features, knn_accuracy, knn_classify


def slow_knn(bank, bank_labels, queries, k, temperature):
    """Wu et al. 2018, section 3.4, one query and one neighbour at a time."""
    predicted = []
    for query in queries.double().tolist():
        neighbours = []
        for entry, label in zip(bank.double().tolist(), bank_labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, entry, strict=True))
            lengths = math.hypot(*query) * math.hypot(*entry)
            neighbours.append((dot / lengths, label))
        neighbours.sort(key=lambda neighbour: -neighbour[0])
        votes = {}
        for similarity, label in neighbours[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        predicted.append(min(votes, key=lambda label: (-votes[label], label)))
    return torch.tensor(predicted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bank_size=st.integers(1, 40),
    classes=st.integers(1, 6),
    dim=st.integers(2, 8),
    share=st.floats(0, 1),
    temperature=st.floats(0.05, 1.0),
    chunk=st.integers(1, 9),
)
def test_knn_agrees_with_one_query_at_a_time(
    seed, bank_size, classes, dim, share, temperature, chunk
):
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(bank_size, dim, generator=generator, dtype=torch.float64)
    queries = 3 * torch.randn(7, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (bank_size,), generator=generator)
    k = 1 + int(share * (bank_size - 1))
    got = knn_classify(bank, labels, queries, k, temperature, classes, chunk)
    assert got.dtype == torch.int64
    assert got.tolist() == slow_knn(bank, labels, queries, k, temperature).tolist()


def test_one_neighbour_gives_each_bank_entry_its_own_label():
    bank = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    assert knn_classify(bank, labels, 5 * bank, k=1).tolist() == labels.tolist()


def test_a_near_neighbour_outvotes_a_far_majority():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([1, 0, 0])
    query = torch.tensor([[1.0, 0.2]])
    assert knn_classify(bank, labels, query, k=3, temperature=0.07).tolist() == [1]
    assert knn_classify(bank, labels, query, k=3, temperature=100.0).tolist() == [0]


def test_neighbours_beyond_the_kth_do_not_vote():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.12], [1.0, 0.14]])
    labels = torch.tensor([2, 0, 0, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_classify(bank, labels, query, k=1, temperature=1.0).tolist() == [2]
    assert knn_classify(bank, labels, query, k=4, temperature=1.0).tolist() == [0]


def test_equal_votes_go_to_the_lowest_label():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert knn_classify(bank, torch.tensor([4, 2, 1]), bank[:1], k=2).tolist() == [2]


def test_the_chunk_does_not_change_the_result():
    generator = torch.Generator().manual_seed(1)
    bank, queries = torch.randn(2, 60, 12, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    whole = knn_classify(bank, labels, queries, chunk=60)
    for chunk in (1, 7, 59, 1000):
        assert knn_classify(bank, labels, queries, chunk=chunk).tolist() == whole.tolist()


def test_a_tiny_temperature_stays_finite_and_takes_the_nearest():
    generator = torch.Generator().manual_seed(2)
    bank, queries = torch.randn(2, 30, 6, generator=generator)
    labels = torch.randint(5, (30,), generator=generator)
    nearest = knn_classify(bank, labels, queries, k=1)
    assert knn_classify(bank, labels, queries, k=10, temperature=1e-5).tolist() == nearest.tolist()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 6}, "k = 6 neighbours cannot be drawn from a bank of 5"),
        ({"k": 0}, "k = 0"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk": 0}, "chunk"),
        ({"num_classes": 2}, "labels run from 0 to 2"),
        ({"bank_labels": torch.tensor([0, 1, 2, 0, -1])}, "labels run from -1"),
        ({"bank_labels": torch.zeros(4, dtype=torch.long)}, "as many labels"),
        ({"queries": torch.ones(2, 4)}, "same number of columns"),
        ({"queries": torch.tensor([[1.0, float("nan"), 0.0]])}, "not finite"),
    ],
)
def test_knn_refuses_what_cannot_work(change, sentence):
    arguments = {
        "bank": torch.eye(5, 3) + 1,
        "bank_labels": torch.tensor([0, 1, 2, 0, 1]),
        "queries": torch.ones(2, 3),
        "k": 2,
        **change,
    }
    with pytest.raises(InputError, match=sentence):
        knn_classify(**arguments)


class _Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Dropout(0.9).eval()

    def forward(self, images):
        early = self.norm(self.first(images))
        return early, self.frozen(early.relu())


def test_features_are_the_average_of_the_last_map_in_eval_mode():
    torch.manual_seed(0)
    backbone = _Backbone()
    backbone.norm.running_mean.fill_(0.3)
    images = torch.randn(5, 3, 8, 8)
    labels = torch.tensor([3, 1, 4, 1, 5], dtype=torch.int32)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features, classes = extract_features(
        backbone, [(images[:3], labels[:3]), (images[3:], labels[3:])], "cpu"
    )
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert backbone.norm.training
    assert not backbone.frozen.training
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert classes.tolist() == [3, 1, 4, 1, 5]
    backbone.eval()
    for image, feature in zip(images, features, strict=True):
        last = backbone(image[None])[-1][0]
        torch.testing.assert_close(feature, last.flatten(1).sum(1) / last[0].numel())


def test_the_mode_is_restored_after_a_failure_too():
    backbone = _Backbone()
    with pytest.raises(RuntimeError):
        extract_features(backbone, [(torch.randn(1, 5, 8, 8), torch.zeros(1))], "cpu")
    assert backbone.norm.training


def test_features_of_nothing_are_refused():
    with pytest.raises(InputError, match="no images"):
        extract_features(_Backbone(), [], "cpu")


def test_accuracy_counts_images_and_classes():
    labels = torch.tensor([0, 0, 0, 2])
    top1, per_class = knn_accuracy(torch.tensor([0, 0, 0, 1]), labels)
    assert top1 == pytest.approx(75.0)
    assert per_class == pytest.approx(50.0)
