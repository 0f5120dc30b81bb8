"""A dataset of which some images may be broken: they are marked, told, and replaced by others."""

import math
from collections.abc import Iterator, Sequence

import torch
from mmpretrain.datasets import BaseDataset

from mmsalmask.data.loading import BrokenImage, read_image, why_broken
from mmsalmask.errors import InputError


class TolerantDataset(BaseDataset):
    """Marks images that cannot be read, and in training hands on others in their place.

    An image for which the pipeline raises :class:`BrokenImage` is replaced by another, which
    depends on its index alone: a run stays reproducible, and images that follow a damaged stretch
    of files are not drawn more often than others. In ``test_mode`` it is an error, since a
    replacement would change the result.

    The marks lie in shared memory, one byte per image: what a worker finds, the main process and
    the other workers see, whether they were forked or spawned. A marked image is not tried again.
    """

    def full_init(self) -> None:
        """List the images, once."""
        if self._fully_initialized:
            return
        super().full_init()
        self._clear_marks()

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep these images only; none of them is marked."""
        super().get_subset_(indices)
        self._clear_marks()

    def get_subset(self, indices: int | Sequence[int]) -> "TolerantDataset":
        """A dataset of these images only, with marks of its own."""
        subset = super().get_subset(indices)
        subset._clear_marks()
        return subset

    def _clear_marks(self) -> None:
        self.broken = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __setstate__(self, state: dict) -> None:
        # A copy (mmengine's Runner makes one of a dataset it is given) leaves shared memory; a
        # spawned worker receives marks that are shared already and stay the same.
        self.__dict__.update(state)
        if self._fully_initialized:
            self.broken.share_memory_()

    def __getitem__(self, index: int) -> dict:
        """What the pipeline makes of image ``index`` or, if it is broken, of its replacement.

        Raises:
            InputError: the image is broken and this is ``test_mode``; or as many replacements as
                ``max_refetch`` were broken too.
        """
        self.full_init()
        index = range(len(self))[index]
        error = None
        for candidate in self._candidates(index):
            if self.broken[candidate] and not self.test_mode:
                continue
            try:
                item = self.prepare_data(candidate)
            except BrokenImage as broken:
                error = broken
                self.mark_broken(candidate, broken)
                continue
            # None is the family's way to ask for another image; this one is not broken.
            if item is not None:
                return item
        raise self._none_readable(index, error)

    def mark_broken(self, index: int, broken: BrokenImage) -> None:
        """Note that an image cannot be read.

        Raises:
            InputError: this is ``test_mode``.
        """
        self.broken[index] = 1
        if self.test_mode:
            raise InputError(
                f"{broken.path} cannot be read ({broken.reason}), and leaving it out would "
                "change the result: repair it or remove it"
            ) from broken

    def readable(self, index: int) -> int:
        """The index or, if its image is marked as broken, that of the image that replaces it.

        Raises:
            InputError: as many replacements as ``max_refetch`` are marked, too.
        """
        for candidate in self._candidates(index):
            if not self.broken[candidate]:
                return candidate
        raise self._none_readable(index)

    def _none_readable(self, index: int, error: BrokenImage | None = None) -> InputError:
        return InputError(
            f"image {index} below {self.data_root} and all tried instead of it cannot be read: "
            f"repair the folder ({error or 'all were found broken before'})"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The index, then others spread over the whole dataset, each once."""
        size = len(self)
        # Neighbours of a broken file are often broken as well. The golden section spreads the
        # steps evenly, and a stride prime to the size meets every image before it comes back.
        stride = max(1, round(size * (math.sqrt(5) - 1) / 2))
        while math.gcd(stride, size) > 1:
            stride += 1
        for attempt in range(min(size, self.max_refetch + 1)):
            yield (index + attempt * stride) % size

    def broken_files(self) -> list[str]:
        """The paths of the images found broken so far by any process of this machine's loader."""
        self.full_init()
        return [self.get_data_info(i)["img_path"] for i in self.broken.nonzero().flatten().tolist()]

    def why_broken(self, path: str) -> str:
        """Read an image once more, as the pipeline does, and say why it is broken."""
        first = next(iter(self.pipeline.transforms), None)
        return why_broken(path, getattr(first, "read", read_image))
