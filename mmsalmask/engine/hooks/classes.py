"""Check that a model's classes are those of its data."""

from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmsalmask.data.nesting import base_datasets
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Stop before the first batch where a head has another number of classes than the data.

    A label beyond the head's classes would end training with an index error, on a GPU with a failed
    kernel; classes with other names in an annotation file would be left out without a word.

    Raises:
        InputError: a head's ``num_classes`` is not the number of the dataset's classes, or the
            annotation file lacks some of them.
    """

    def before_train(self, runner: Runner) -> None:
        self._check(runner.model, runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        self._check(runner.model, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        self._check(runner.model, runner.test_dataloader.dataset)

    def _check(self, model: nn.Module, dataset: Dataset) -> None:
        classes = dataset.metainfo["classes"]
        for part in base_datasets(dataset):
            found = len(getattr(part, "cat_ids", classes))
            if found != len(classes):
                raise InputError(
                    f"{part.ann_file} has {found} of the {len(classes)} classes: set "
                    "dataset.metainfo.classes to the names in that file"
                )
        if not len(dataset):
            raise InputError(
                f"no image of {base_datasets(dataset)[0].ann_file} shows any of the {len(classes)} "
                "classes: set dataset.metainfo.classes to the names in the annotations"
            )
        for name, count in _class_counts(model):
            if count != len(classes):
                raise InputError(
                    f"{name} is {count}, but the data has {len(classes)} classes: set {name} to "
                    f"{len(classes)}, or dataset.metainfo.classes to what the model knows"
                )


def _class_counts(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Every head's number of classes; a region proposal head knows only objects.

    A segmentor repeats that of its head.
    """
    for name, module in model.named_modules():
        if name in ("", "module") or name.endswith("rpn_head"):
            continue
        if isinstance(getattr(module, "num_classes", None), int):
            yield f"model.{name.removeprefix('module.')}.num_classes", module.num_classes
