"""Pretrain a small net on a folder of photos, and ask whether it learned anything.

python docs/tutorials/pretrain_in_python.py imagenette/train imagenette/val -o pretrained.jpg
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image, ImageOps

import mmsalmask as sm

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("train", type=Path, help="folder <class>/<image> to pretrain on")
parser.add_argument("test", type=Path, help="folder <class>/<image> of other photos")
parser.add_argument("-o", "--out", type=Path, default=Path("pretrained.jpg"))
parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/pretrain_in_python"))
parser.add_argument("--epochs", type=int, default=15)
options = parser.parse_args()

# 1. Pretrain
# What a short training needs: BatchNorm in the neck, or the embeddings of a new net take long to
# part; and a momentum encoder and a queue that look back over few steps.
NECK = dict(
    _delete_=True,
    type="NonLinearNeck",
    in_channels=128,
    hid_channels=128,
    out_channels=128,
    num_layers=2,
    with_bias=False,
    with_last_bn_affine=False,
    norm_cfg=dict(type="BN1d"),
)
run = sm.pretrain(
    options.train,
    options.work_dir,
    method="mocov2-salmask-highpass",
    backbone=dict(type="ResNet", depth=18, base_channels=16, stem_channels=16),
    size=64,
    epochs=options.epochs,
    batch_size=128,
    lr=0.15,
    overrides={"model.neck": NECK, "model.momentum": 0.99, "model.queue_len": 4096},
)

# 2. Ask without labels
print(sm.diagnose(run, options.test))

# 3. Ask with labels, beside an untrained net
trained = run.backbone()
untrained = sm.get_model(run.checkpoint, pretrained=False)
for name, model in {"untrained": untrained, "pretrained": trained}.items():
    found = sm.evaluate(model, options.train, options.test)
    print(f"{name}: kNN {found.knn:.1f} %, linear {found.linear:.1f} %")

# 4. Find neighbours
features = sm.embed(trained, options.test)
asked = features.paths[:: max(1, len(features) // 5)][:5]
figure, axes = plt.subplots(len(asked), 6, figsize=(6.6, 1.15 * len(asked)))
for row, path in zip(axes, asked, strict=True):
    shown = [path, *(other for other, _ in features.nearest(path, k=5))]
    for axis, photo in zip(row, shown, strict=True):
        axis.imshow(ImageOps.fit(Image.open(photo).convert("RGB"), (112, 112)))
        axis.set_axis_off()
figure.tight_layout(pad=0.3)
figure.savefig(options.out, dpi=110)
print(options.out)
