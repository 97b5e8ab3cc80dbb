"""
The formats that conversion knows: a new one is a module with a subclass of [`Checkpoint`], and a line in
[`known_formats`].
"""

from collections.abc import Sequence

from ..files import PathLike
from .allennlp_archive import AllenNlpArchive
from .bilm_hdf5 import BilmHdf5
from .bilm_tensorflow import BilmTensorflow, TfHubModule
from .checkpoint import Checkpoint
from .errors import shortened
from .many_langs import ManyLangs
from .sources import Source, open_source


def known_formats() -> dict[str, type[Checkpoint]]:
    """Each format by the name that a user gives it. What a source holds of several is taken as the first of them."""
    return {
        "tensorflow": BilmTensorflow,
        "tfhub": TfHubModule,
        "hdf5": BilmHdf5,
        "allennlp": AllenNlpArchive,
        "many-langs": ManyLangs,
    }


def open_checkpoint(paths: Sequence[PathLike], format: str | None = None, name: str | None = None) -> Checkpoint:
    """
    Recognises a checkpoint and opens it.

    Args:
        paths: a folder, a zip, a tar or a file; or several files that belong together.
        format: one of [`known_formats`], where a folder holds several.
        name: which checkpoint of the folder, or which module of the archive, where there are several.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: nothing in it is a checkpoint of a known format, or it holds several and none was chosen.
    """
    formats = known_formats()
    if format is not None and format not in formats:
        raise ValueError(f"`format` must be one of {', '.join(formats)}, was: {format}.")
    source = open_source(paths)
    for key, kind in formats.items():
        if format not in (None, key):
            continue
        if names := kind.names(source):
            return kind.open(source, _chosen(source, names, kind.default(source, names) if name is None else name))
    wanted = "of a biLM" if format is None else f"of the format {format}"
    there = ", ".join(shortened(found.rpartition("/")[2], 40) for found in source.names[:5]) or "no files"
    raise ValueError(
        f"{source.path}: must hold a checkpoint {wanted}: *.hdf5 with options.json, *.index with *.data-*, "
        f"weights.th, or encoder.pkl with token_embedder.pkl; has {there}."
    )


def _chosen(source: Source, names: list[str], name: str | None) -> str:
    if name is None:
        raise ValueError(f"{source.path}: holds {len(names)} biLMs, choose one by `name`: {_list(names)}.")
    if name not in names:
        raise ValueError(f"`name` must be one of {_list(names)} in {source.path}, was: {name}.")
    return name


def _list(names: list[str]) -> str:
    return ", ".join(shortened(name, 60) for name in names[:8])
