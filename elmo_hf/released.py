"""The released ELMo checkpoints: what there is, of which text and under which licence, and how to get one by name."""

import difflib
import os
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .downloads import cache_folder, download, is_address
from .files import PathLike

_LIST = Path(__file__).parent / "checkpoints" / "released.toml"


@dataclass(frozen=True)
class Released:
    """
    A released checkpoint, as `checkpoints/released.toml` tells of it.

    Attributes:
        name: what `convert_checkpoint` takes.
        title: what it is, in words.
        language: ISO 639 code, or "protein".
        text: what it was trained on, as its publisher says.
        format: one of `checkpoints.formats.known_formats`.
        license: an identifier of the Hub where its publisher states one, else "not stated".
        source: where all this was found.
        citation: of the paper.
        rights: what is known of the licence beside that.
        files: addresses; none where they can only be had by hand from `page`.
        md5: of the files, where their publisher tells them.
        page: where to find the files.
        note: what else there is to know.
        size: megabytes to download, where that is known.
    """

    name: str
    title: str
    language: str
    text: str
    format: str
    license: str
    source: str
    citation: str
    rights: str = ""
    files: tuple[str, ...] = ()
    md5: tuple[str, ...] = field(default=())
    page: str = ""
    note: str = ""
    size: int | None = None

    @property
    def hub_license(self) -> str | None:
        """For a model card: `None` where none is stated."""
        return None if self.license == "not stated" else self.license


@lru_cache
def released() -> dict[str, Released]:
    """Every released checkpoint by its name."""
    with _LIST.open("rb") as stream:
        content = tomllib.load(stream)
    entries = {}
    for values in content["checkpoint"]:
        lists = {name: tuple(values[name]) for name in ("files", "md5") if name in values}
        entries[values["name"]] = Released(**{**values, **lists, "citation": content["citations"][values["citation"]]})
    return entries


def download_released(name: str) -> Path:
    """
    The archive, or the folder of the files, of a released checkpoint, downloaded if it is not there.

    Raises:
        KeyError: there is none of this name.
        ValueError: it can only be had by hand, or is not what its publisher says.
        OSError: it could not be had.
    """
    entry = released()[name]
    if not entry.files:
        raise ValueError(f"{name} must be downloaded by hand, from {entry.page}. {entry.note}".rstrip())
    folder = cache_folder() / "released" / name
    sums = entry.md5 or (None,) * len(entry.files)
    paths = [download(address, folder, md5) for address, md5 in zip(entry.files, sums, strict=True)]
    return paths[0] if len(paths) == 1 else folder


def similar_names(name: str) -> list[str]:
    """Names that somebody who typed this may have meant."""
    return difflib.get_close_matches(name, released(), n=3, cutoff=0.5)


def find_released(path: PathLike) -> Released | None:
    """
    The released checkpoint of this name; `None` where it is an address, or a file or folder that is there.

    Raises:
        FileNotFoundError: it is none of these.
    """
    name = str(path)
    if is_address(name) or os.path.exists(name):
        return None
    if name not in released():
        hint = f" ({', '.join(similar)}?)" if os.sep not in name and (similar := similar_names(name)) else ""
        raise FileNotFoundError(
            f"{name}: must be a folder, a file or a name of `elmo-hf released`{hint}, was missing."
        )
    return released()[name]
