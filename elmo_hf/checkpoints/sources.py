"""
Where the files of a checkpoint lie: single files, a folder, a zip or a tar, each read in place.

Archives come from strangers. Nothing in them is written under a name of theirs, links and devices in them are not
followed, and what they declare is compared with their own size before it is read.
"""

import io
import mmap
import os
import shutil
import tarfile
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from ..files import PathLike, check_readable
from .errors import plain_errors, shortened

_MAX_FILES = 10_000
# Deflate packs zeros about 1 to 1030, bzip2 and xz more; what claims more than this is lying about its size.
_MAX_COMPRESSION = 10_000
_FOLDER_DEPTH = 3


class Source(ABC):
    """
    Files by name, with "/" between folders.

    Attributes:
        path: what the user named, for messages.
        kept: what was read from a file and is not to be read again at once.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self.kept: dict[str, Any] = {}

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of all files, sorted."""

    @abstractmethod
    def size(self, name: str) -> int:
        """In bytes."""

    @abstractmethod
    def opened(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to read and to seek in. Seeking backwards in an archive is slow."""

    @property
    @abstractmethod
    def files_on_disk(self) -> list[Path]:
        """What a reader of all names reads: the archive, or the files."""

    def location(self, name: str) -> str:
        """How messages call a file."""
        return f"{self.path}: {shortened(name)}"

    def on_disk(self, name: str) -> Path | None:
        """The file itself, where it is one."""
        return None

    def read(self, name: str, limit: int) -> bytes:
        """
        All of a small file.

        Raises:
            ValueError: it is longer than `limit`, or damaged.
        """
        if self.size(name) > limit:
            raise ValueError(f"{self.location(name)}: must be at most {limit} bytes long, was: {self.size(name)}.")
        with plain_errors(self.location(name), "file"), self.opened(name) as stream:
            return stream.read(limit)

    def ending(self, *endings: str) -> list[str]:
        """Names whose last part ends so."""
        return [name for name in self.names if name.endswith(endings) and not name.rpartition("/")[2].startswith(".")]


class Files(Source):
    """Files on disk, those of a folder or some that were named."""

    def __init__(self, path: PathLike, files: dict[str, Path]):
        super().__init__(path)
        self._files = dict(sorted(files.items()))

    @classmethod
    def of_folder(cls, folder: PathLike) -> "Files":
        """
        Raises:
            ValueError: it has more files than any checkpoint.
        """
        files: dict[str, Path] = {}
        for parent, folders, names in os.walk(folder):
            below = Path(parent).relative_to(folder)
            if len(below.parts) >= _FOLDER_DEPTH:
                folders.clear()
            folders[:] = [name for name in folders if not name.startswith(".")]
            files |= {(below / name).as_posix(): Path(parent, name) for name in names}
            if len(files) > _MAX_FILES:
                raise ValueError(f"{folder}: must be the folder of a checkpoint, has more than {_MAX_FILES} files.")
        return cls(folder, {name: path for name, path in files.items() if path.is_file()})

    @classmethod
    def named(cls, *paths: PathLike) -> "Files":
        """Single files, by their own names."""
        for path in paths:
            check_readable(path)
        return cls(paths[0], {str(path): Path(path) for path in paths})

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def size(self, name: str) -> int:
        return self._files[name].stat().st_size

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        check_readable(self._files[name])
        with open(self._files[name], "rb") as stream:
            yield stream

    @property
    def files_on_disk(self) -> list[Path]:
        return list(self._files.values())

    def location(self, name: str) -> str:
        return str(self._files[name])

    def on_disk(self, name: str) -> Path:
        return self._files[name]


class ZipSource(Source):
    """The files in a zip."""

    def __init__(self, path: PathLike):
        super().__init__(path)
        with plain_errors(path, "zip"), zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > _MAX_FILES:
            raise ValueError(f"{path}: must be the zip of a checkpoint, has more than {_MAX_FILES} files.")
        for entry in entries:
            if entry.file_size > _MAX_COMPRESSION * max(entry.compress_size, 1):
                raise ValueError(
                    f"{path}: {shortened(entry.filename)} must be as large as it says, was: {entry.file_size} bytes "
                    f"in {entry.compress_size}."
                )
        self._entries = {entry.filename: entry for entry in sorted(entries, key=lambda entry: entry.filename)}

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def size(self, name: str) -> int:
        return self._entries[name].file_size

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self._entries[name]) as stream:
            yield stream

    @property
    def files_on_disk(self) -> list[Path]:
        return [self.path]


class TarSource(Source):
    """The files in a tar, packed or not."""

    def __init__(self, path: PathLike):
        super().__init__(path)
        limit = _MAX_COMPRESSION * os.path.getsize(path)
        entries: dict[str, tarfile.TarInfo] = {}
        with plain_errors(path, "tar"), tarfile.open(path) as archive:
            for entry in archive:
                if entry.offset > limit or len(entries) > _MAX_FILES:
                    raise ValueError("it has more in it than a checkpoint can have")
                if entry.isreg():
                    # Archives that `tar` made of "." begin each name with it.
                    entries[entry.name.removeprefix("./")] = entry
        self._entries = dict(sorted(entries.items()))

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def size(self, name: str) -> int:
        return self._entries[name].size

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        with tarfile.open(self.path) as archive:
            stream = archive.extractfile(self._entries[name])
            assert stream is not None
            with stream:
                yield stream

    @property
    def files_on_disk(self) -> list[Path]:
        return [self.path]


class InMemory(io.RawIOBase):
    """
    A file of an archive, unpacked into memory to be read in any order. What is not wanted any more can be let go, so
    that it and what was read from it are not there at once.
    """

    def __init__(self, source: Source, name: str):
        super().__init__()
        self._place, self._size = 0, source.size(name)
        # Pages of its own, because what is given back to the allocator need not leave the process.
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
        self._pages = mmap.mmap(-1, max(self._size, 1), **private)
        with plain_errors(source.location(name), "file"), source.opened(name) as stream:
            done = 0
            while done < self._size and (block := stream.read(min(1 << 20, self._size - done))):
                self._pages[done : done + len(block)] = block
                done += len(block)
            if done < self._size:
                raise ValueError(f"it must be {self._size} bytes long, was {done}")

    def release(self, start: int, end: int):
        """Lets go of what lies between, as far as it fills whole pages; it reads as zeros from then on."""
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED, start, end - start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._place))
        view[:length] = memoryview(self._pages)[self._place : self._place + length]
        self._place += length
        return length


@contextmanager
def on_disk(source: Source, name: str) -> Iterator[IO[bytes]]:
    """A file to be read in any order that takes no memory: out of an archive, unpacked for the time of the block."""
    path = source.on_disk(name)
    if path is not None:
        with open(path, "rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as stream:
        with plain_errors(source.location(name), "file"), source.opened(name) as packed:
            shutil.copyfileobj(packed, stream, 1 << 20)
            if stream.tell() != source.size(name):
                raise ValueError(f"it must be {source.size(name)} bytes long, was {stream.tell()}")
        stream.seek(0)
        yield stream


def open_source(paths: Sequence[PathLike]) -> Source:
    """
    A folder, an archive or single files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is damaged.
    """
    if len(paths) > 1:
        return Files.named(*paths)
    (path,) = paths
    if os.path.isdir(path):
        return Files.of_folder(path)
    check_readable(path, "a file or a folder")
    with plain_errors(path, "file"):
        # A file of PyTorch is a zip as well.
        if zipfile.is_zipfile(path) and not str(path).endswith((".th", ".pt", ".pth", ".bin", ".pkl")):
            return ZipSource(path)
        if tarfile.is_tarfile(path):
            return TarSource(path)
    return Files.named(path)
