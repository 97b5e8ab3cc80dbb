"""Files from the net, whole or not at all, kept for the next time."""

import hashlib
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from .files import PathLike, atomic_file


def is_address(path: PathLike) -> bool:
    """Whether it is an address in the net rather than a file."""
    return str(path).startswith(("http://", "https://"))


def cache_folder() -> Path:
    """Where downloads are kept: `ELMO_HF_CACHE`, or `elmo_hf` beside what `huggingface_hub` keeps."""
    return Path(os.environ.get("ELMO_HF_CACHE") or Path(constants.HF_HOME, "elmo_hf"))


def download(address: str, folder: PathLike | None = None, md5: str | None = None) -> Path:
    """
    The file at an address, with a progress bar; from the cache if it is there. A connection that breaks is resumed a
    few times, after that the next call begins anew.

    Args:
        address: of http or https.
        folder: where to put it, instead of a folder of its own in the cache.
        md5: what its publisher says that it sums up to.

    Raises:
        OSError: it could not be had, or not be written.
        ValueError: it is another file, by `md5`.
    """
    name = unquote(urlsplit(address).path.rpartition("/")[2]) or "download"
    own = cache_folder() / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]
    target = Path(own if folder is None else folder, name)
    if not target.exists():
        try:
            with atomic_file(target) as temporary:
                _fetch(address, temporary, md5)
        except FileExistsError:
            # Another process was quicker.
            pass
    return target


def local_file(path: PathLike) -> PathLike:
    """The file itself, downloaded if it is an address."""
    return download(str(path)) if is_address(path) else path


def _fetch(address: str, temporary: Path, md5: str | None):
    # Takes a while to import, which `elmo-hf released` does without.
    from huggingface_hub.file_download import http_get

    with temporary.open("wb") as stream:
        try:
            http_get(address, stream, displayed_filename=urlsplit(address).path.rpartition("/")[2])
        except OSError as error:
            if error.errno is not None:
                raise
            raise _failed(address, error) from None
        # The library below it has errors of its own.
        except Exception as error:
            raise _failed(address, error) from None
    if md5 is not None:
        with temporary.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise ValueError(f"{address}: must have the md5 {md5} that its publisher tells, had {found}.")


def _failed(address: str, error: Exception) -> ConnectionError:
    text = " ".join(str(error).split()) or type(error).__name__
    return ConnectionError(f"{address}: could not be downloaded: {text[:200]}")
