"""The images that a text file lists."""

import codecs
import os
from pathlib import Path

from mmsalmask.data.image_folder import ImageFolder
from mmsalmask.errors import InputError
from mmsalmask.registry import DATASETS


def read_paths(file: str | Path) -> list[str]:
    """The paths of a text file, one a line, empty lines left out.

    Relative ones count from the file's folder. They are in UTF-8, as the file system has them.

    Raises:
        InputError: the file is missing, is no text, or names nothing.
    """
    file = Path(file).expanduser()
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"the list of images {file} cannot be read ({error.strerror})") from error
    if b"\0" in content:
        raise InputError(f"{file} is no text: a list of images has one path a line, in UTF-8")
    lines = (os.fsdecode(line.strip()) for line in content.split(b"\n"))
    paths = [os.path.join(file.parent, line) for line in lines if line]
    if not paths:
        raise InputError(f"the list of images {file} is empty: write one path a line")
    return paths


@DATASETS.register_module()
class ImageList(ImageFolder):
    """The images that a text file lists, in its order; for the rest an :class:`ImageFolder`.

    Args:
        data_root: the text file, see :func:`read_paths`.
        pipeline, extensions, indices, test_mode, lazy_init: as of :class:`ImageFolder`; what is
            listed counts as an image, whatever it is called.

    Raises:
        InputError: the file cannot be read or is empty, and as :class:`ImageFolder`; there are no
            labels in a list.
    """

    def load_data_list(self) -> list[dict]:
        """One dict per image: ``img_path``."""
        if self.with_label:
            raise InputError(
                f"{self.data_root} is a list of images, which has no labels: give a folder "
                "<class>/<image>"
            )
        return [{"img_path": path} for path in read_paths(self.data_root)]
