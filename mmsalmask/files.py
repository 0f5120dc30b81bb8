"""Files that appear whole or not at all."""

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from mmsalmask.errors import NotWritten


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk finds the old content or the new.

    The content goes to a temporary file beside the target, is flushed to the disk, read back and
    renamed.

    Raises:
        NotWritten: the system's OSError, naming ``path``, or if other content came back; the
            temporary file is gone, an older target untouched.
    """
    path = Path(path)
    # Not by the tempfile module: its files are readable by their owner alone, and stay so.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # read it from the disk, not from memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sha256(temporary) != hashlib.sha256(content).hexdigest():
            raise OSError(errno.EIO, "other content was read back than was written")
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise NotWritten(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # a disk that is read-only refuses that, too
            temporary.unlink(missing_ok=True)


def sha256(path: Path, end: int | None = None) -> str:
    """SHA-256 of a file, or of its first ``end`` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if end is None else end
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    """Let a renaming survive a power failure."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:  # some network file systems cannot, and need not
        pass
    finally:
        os.close(number)
