"""benchmarks/mask_probe.py: what it says of nets whose answer is known."""

from types import SimpleNamespace

import mask_probe
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmsalmask.errors import InputError


def test_a_probe_tells_what_can_be_told():
    torch.manual_seed(0)
    clean = torch.randn(400, 8)
    assert 40 < mask_probe.probe(torch.randn(400, 8), clean) < 60
    assert mask_probe.probe(torch.randn(400, 8) + torch.eye(8)[0] * 10, clean) == 100


class Pooled(nn.Module):
    def forward(self, views: Tensor) -> tuple[Tensor]:
        return (views.mean((2, 3)),)


def test_similarities_are_cosines_of_query_key_and_hard_negative():
    model = SimpleNamespace(backbone=Pooled(), neck=nn.Identity(), momentum_encoder=Pooled())
    axes = torch.eye(3)[:, :, None, None].expand(-1, -1, 4, 4)
    query, key, hard = axes[:1], axes[:1] + axes[1:2], axes[2:]
    model.backbone.forward = lambda views: views.mean((2, 3))
    model.neck.forward = lambda features: (features,)
    found = mask_probe.similarities(model, [query, key, hard])
    assert found == {
        "qk": pytest.approx(0.5**0.5, abs=1e-3),
        "qh": 0,
        "kh": 0,
        "nearer_to_key": 100,
    }


def test_only_finished_runs_with_a_localizer_are_asked(tmp_path, monkeypatch):
    for name, pretrain, localizer in (("a", True, "L"), ("b", False, "L"), ("c", True, None)):
        folder = tmp_path / "runs" / name / "seed_0"
        folder.mkdir(parents=True)
        told = f'{{"name": "{name}", "seed": 0, "pretrain": {str(pretrain).lower()}}}'
        (folder / "run.json").write_text(told)
        (folder / "result.json").write_text("{}")
        masker = dict(type="M", localizer=localizer, hard_negatives=0)
        Config(dict(model=dict(data_preprocessor=dict(masker=masker)))).dump(folder / "config.py")
    ((name, seed, folder, config),) = mask_probe.finished(tmp_path, None)
    assert (name, seed, folder.parent.name) == ("a", 0, "a")
    assert config.model.data_preprocessor.masker.hard_negatives == 1
    with pytest.raises(InputError, match="no finished run that masks by saliency"):
        mask_probe.finished(tmp_path, ["c"])
