"""What lies in a tar file, and where, without reading more of it than the headers."""

import io
import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mmsalmask.errors import InputError


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: with its folders; the tar it lies in is one of them, where tars lie in a tar.
        offset: of its first byte, from the beginning of the outermost tar.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


class _Part(io.RawIOBase):
    """A stretch of a file, up to ``end``, as a file that is read at the same positions."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file = file
        self.end = end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.end - self.file.tell())
        return self.file.read(left if size < 0 else min(size, left))


def members(path: str) -> Iterator[Member]:
    """The files in a tar, and those in tars that lie in it, in their order.

    Hidden names and what is no plain file (links, say) are left out, the latter as a member of size
    −1, so that it can be counted.

    Raises:
        InputError: the tar is compressed, cut short, or none; or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            yield from _walk(file, os.path.getsize(path), "")
    except tarfile.TarError as error:
        raise InputError(
            f"{path} cannot be read as a tar file ({error}): fetch or pack it again, and leave it "
            "uncompressed, since images are read from the middle of it"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error


def _walk(file: BinaryIO, end: int, folder: str) -> Iterator[Member]:
    """The members of the tar that begins where the file stands."""
    with tarfile.TarFile(fileobj=_Part(file, end)) as tar:
        for entry in tar:
            tar.members.clear()  # tarfile keeps all of them, a kilobyte each
            name = os.path.normpath(entry.name).lstrip("/")
            if entry.isdir() or any(part.startswith(".") for part in name.split("/")):
                continue
            if not entry.isreg() or entry.issparse():
                yield Member(folder + name, 0, -1)
            elif name.lower().endswith(".tar"):
                file.seek(entry.offset_data)
                inner = folder + os.path.splitext(name)[0] + "/"
                yield from _walk(file, entry.offset_data + entry.size, inner)
            else:
                yield Member(folder + name, entry.offset_data, entry.size)
