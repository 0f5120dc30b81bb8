"""benchmarks/twin.py: its loops compute what the algorithm computes, figures are what they say."""

import json
import sys

import pytest
import render
import torch
import twin
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmsalmask.data.demo import draw_demo_set
from mmsalmask.errors import InputError
from mmsalmask.registry import MODELS

SMALL = dict(size=32, width=8, hidden=16, dim=8, queue=20, momentum=0.9, batch=8, epochs=1)
VARIANTS = {
    "plain": {},
    "symmetric": dict(symmetric=True),
    "groups": dict(bn_splits=2),
    "momentum": dict(final_momentum=1.0),
    "all, normalising neck": dict(
        symmetric=True, bn_splits=2, final_momentum=1.0, neck="NonLinearNeck"
    ),
}
STEPS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> twin.Photos:
    root = tmp_path_factory.mktemp("twin")
    draw_demo_set(root, images_per_class=8, classes=("disk", "bars"), size=40)
    return twin.Photos(root / "train", root / "test", 0)


def train(model: nn.Module, loss) -> list[float]:
    """Losses of a few steps, on views and permutations that are the same for every model."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)
        views = [torch.randn(8, 3, 32, 32) for _ in range(2)]
        optimizer.zero_grad()
        losses.append(loss(views, step))
        losses[-1].backward()
        optimizer.step()
    return [value.item() for value in losses]


def algorithm(recipe: twin.Recipe, photos: twin.Photos, tmp_path) -> nn.Module:
    """MaskedMoCo, as the runner builds it from the recipe's config."""
    DefaultScope.get_instance("twin", scope_name="mmpretrain")
    model = MODELS.build(twin._config(recipe, photos, 0, tmp_path / "work").model)
    model.init_weights()
    return model


def losses_of(model: nn.Module, recipe: twin.Recipe) -> list[float]:
    hub = MessageHub.get_current_instance()
    hub.update_info("max_iters", STEPS)

    def loss(views: list[Tensor], step: int) -> Tensor:
        hub.update_info("iter", step)
        both = [torch.cat(views), torch.cat(views[::-1])]
        return model.loss(both if recipe.symmetric else views)["loss"]

    return train(model, loss)


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.data.copy_(new.data)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bare_loop_computes_what_the_algorithm_computes(photos, tmp_path, variant):
    recipe = twin.Recipe(**SMALL, **VARIANTS[variant])
    model, bare = algorithm(recipe, photos, tmp_path), twin.Bare(recipe)
    for encoder in (bare.encoder, bare.key_encoder):
        copy_parameters(nn.Sequential(model.backbone, model.neck), encoder)
    bare.queue.copy_(model.queue)
    found = train(bare, lambda views, step: bare.loss(*views, step / STEPS))
    assert found == pytest.approx(losses_of(model, recipe), abs=1e-4)
    assert torch.allclose(bare.queue, model.queue, atol=1e-4)
    for own, other in zip(
        bare.key_encoder.parameters(), model.momentum_encoder.parameters(), strict=True
    ):
        assert torch.allclose(own, other, atol=1e-4)


# With a symmetric loss lightly's queue moves between the directions.
@pytest.mark.parametrize("variant", ["plain", "groups", "momentum"])
def test_lightlys_parts_compute_what_the_algorithm_computes(photos, tmp_path, variant):
    pytest.importorskip("lightly")
    recipe = twin.Recipe(**SMALL, **VARIANTS[variant])
    model, other = algorithm(recipe, photos, tmp_path), twin.Lightly(recipe)
    for backbone, head in ((other.backbone, other.head), (other.key_backbone, other.key_head)):
        copy_parameters(model.backbone, backbone)
        copy_parameters(model.neck, head)
    other.criterion.memory_bank.bank.copy_(model.queue)
    found = train(other, lambda views, step: other.loss(*views, step / STEPS))
    # Its memory bank begins anew at its end, so a queue is compared that no batch overruns.
    assert found[:2] == pytest.approx(losses_of(model, recipe)[:2], abs=1e-4)


def test_the_ways_are_trained_judged_and_kept(photos, tmp_path, monkeypatch, capsys):
    file = tmp_path / "twin.json"
    words = ["--json", file, "--train", photos.train, "--test", photos.test, "--images", "12"]
    words += ["--ways", "untrained", "runner", "bare", "-k", "3"]
    for name, value in SMALL.items():
        words += [f"--{name}", value]

    def run(*more: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["twin.py", *map(str, words), *map(str, more)])
        twin.main()
        return json.loads(file.read_text())

    first = run("--seeds", 0)
    assert list(first["results"]) == ["untrained", "runner", "bare"]
    for way, runs in first["results"].items():
        assert 0 <= runs["0"]["top1"] <= 100
        assert len(runs["0"]["losses"]) == (way != "untrained")
    monkeypatch.setattr(twin, "run", lambda *_: pytest.fail("was already run"))
    assert run("--seeds", 0)["results"] == first["results"]
    assert "| bare | 1 |" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds another recipe"):
        run("--lr", 0.5)


def test_the_table_pairs_the_ways_by_seed():
    def runs(*values: float, seeds=(0, 1, 2)) -> dict:
        return {
            str(seed): dict(top1=value, losses=[5.0, 4.0], seconds=90)
            for seed, value in zip(seeds, values, strict=True)
        }

    text = render.twin(
        dict(
            results={"runner": runs(40, 42, 44), "bare": runs(43, 45, seeds=(1, 2))},
            **dict(command="c", commit="d", hardware="e", torch="f"),
        )
    )
    assert "| runner | 3 | 42.0 ± 2.0 |  | 4.00 | 1.5 |" in text
    assert "| bare | 2 | 44.0 ± 1.4 | +1.0 | 4.00 | 1.5 |" in text
