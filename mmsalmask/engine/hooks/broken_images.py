"""What becomes of the images that could not be read."""

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmsalmask.checks import check_integer, check_share
from mmsalmask.data.image_folder import ImageFolder, image_folders
from mmsalmask.errors import InputError
from mmsalmask.registry import HOOKS

_SHOWN = 20


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Name broken images as they are found, at the end once more, and stop when they are too many.

    :class:`~mmsalmask.data.ImageFolder` replaces a broken image in training and marks it. This
    hook collects the marks of all processes every ``interval`` iterations and after each epoch, so
    that all of them stop at the same iteration. It finds the datasets inside wrappers that have
    them as ``dataset`` or ``datasets``. In validation and test a broken image is always an error.

    Args:
        limit: the share of broken images that is tolerated, in [0, 1].
        interval: iterations between two looks.

    Raises:
        InputError: more than ``limit`` of the training images are broken, or any other image, with
            the first of them and why they cannot be read.
    """

    def __init__(self, limit: float = 0.01, interval: int = 100) -> None:
        self.limit = check_share("limit, a share of the images,", limit)
        self.interval = check_integer("interval", interval)
        self._reasons: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        self._reasons.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._look(runner)

    def after_train(self, runner: Runner) -> None:
        if self._reasons:
            total = _count_images(runner.train_dataloader.dataset)
            runner.logger.warning(
                f"{len(self._reasons)} of {total} images could not be read and were replaced by "
                f"others:\n{_lines(self._reasons)}"
            )

    def after_val_epoch(self, runner, metrics=None) -> None:
        _refuse_any(runner.val_dataloader.dataset)

    def after_test_epoch(self, runner, metrics=None) -> None:
        _refuse_any(runner.test_dataloader.dataset)

    def _look(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        for path, folder in _broken_anywhere(dataset).items():
            if path not in self._reasons:
                self._reasons[path] = folder.why_broken(path)
                runner.logger.warning(f"broken image {path}: {self._reasons[path]}")
        count, total = len(self._reasons), _count_images(dataset)
        if count > self.limit * total:
            raise InputError(
                f"{count} of {total} images cannot be read, more than the "
                f"{100 * self.limit:.3g} % that BrokenImagesHook tolerates: repair or remove them"
                f"\n{_lines(self._reasons, _SHOWN)}"
            )


def _count_images(dataset: Dataset) -> int:
    return sum(len(folder) for folder in image_folders(dataset))


def _broken_anywhere(dataset: Dataset) -> dict[str, ImageFolder]:
    """The paths of the images that any process of the run has marked, on all of them the same."""
    found = {}
    for folder in image_folders(dataset):
        marks = folder.broken.clone()
        all_reduce(marks, op="max")
        # Only ones are written, and only there: a worker may mark another image at this moment.
        folder.broken[marks.nonzero().flatten()] = 1
        found |= dict.fromkeys(folder.broken_files(), folder)
    return found


def _refuse_any(dataset: Dataset) -> None:
    found = _broken_anywhere(dataset)
    reasons = {path: folder.why_broken(path) for path, folder in found.items()}
    if reasons:
        raise InputError(
            f"{len(reasons)} images of the evaluation cannot be read and were replaced, which "
            "changes its result: repair or remove them and set test_mode=True for this dataset"
            f"\n{_lines(reasons, _SHOWN)}"
        )


def _lines(reasons: dict[str, str], shown: int | None = None) -> str:
    lines = [f"  {path}: {reason}" for path, reason in list(reasons.items())[:shown]]
    hidden = len(reasons) - len(lines)
    return "\n".join([*lines, *([f"  and {hidden} more, all named in the log"] if hidden else [])])
