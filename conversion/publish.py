"""
Released checkpoints, converted, verified and pushed to the Hub, one after the other:

    python conversion/publish.py russian-wiki polish --organization YOUR_NAME --folder WORK [--push]

Without --push it stops at the folders and their model cards. What is converted already is not converted again, and
what the Hub has already is not sent again, so the same command goes on where it was stopped.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import HfApi

sys.path.insert(0, str(Path(__file__).parent.parent))
from elmo_hf.checkpoints.conversion import Conversion, convert_checkpoint
from elmo_hf.files import atomic_file
from elmo_hf.released import released

# Kept beside the folders: the sha256 of what was pushed of each name.
RECORD = "published.json"


@dataclass(frozen=True)
class Published:
    """
    Attributes:
        name: of the list of released checkpoints.
        repo_id: of the Hub.
        folder: what was converted.
        conversion: how; `None` if it was there already.
        url: of the commit; `None` if nothing was pushed.
    """

    name: str
    repo_id: str
    folder: Path
    conversion: Conversion | None
    url: str | None


def publish(name: str, organization: str, folder: Path, push: bool, api: HfApi | None = None) -> Published:
    """
    Converts a released checkpoint, unless its folder is there, and pushes it, unless this very folder was pushed.

    Raises:
        ValueError: there is no checkpoint of this name, or it cannot be had or is wrong.
        OSError: it could not be downloaded, written or pushed.
    """
    if name not in released():
        raise ValueError(f"{name}: must be a name of `elmo-hf released`, was not.")
    target, repo_id, conversion = folder / name, f"{organization}/elmo-{name}", None
    if not target.exists():
        conversion = convert_checkpoint(name, target, repo_id=repo_id)
    if not push:
        return Published(name, repo_id, target, conversion, None)
    record = folder / RECORD
    done = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    content = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    if done.get(repo_id) == content:
        return Published(name, repo_id, target, conversion, None)
    api = api or HfApi()
    api.create_repo(repo_id, exist_ok=True)
    commit = api.upload_folder(repo_id=repo_id, folder_path=str(target), commit_message=f"Convert {name}")
    with atomic_file(record, overwrite=True) as file:
        file.write_text(json.dumps({**done, repo_id: content}, indent=2) + "\n", encoding="utf-8")
    return Published(name, repo_id, target, conversion, str(commit))


def main(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Of `elmo-hf released`, or `all`.")],
    organization: Annotated[str, typer.Option(help="The user or organization of the Hub.")],
    folder: Annotated[Path, typer.Option(help="Where to keep the converted folders.")],
    push: Annotated[bool, typer.Option("--push", help="Push them to the Hub.")] = False,
):
    failed = 0
    for name in [*released()] if names == ["all"] else names:
        try:
            result = publish(name, organization, folder, push)
        # One that fails does not keep the others.
        except (OSError, ValueError, TypeError) as error:
            typer.echo(f"{name}: {error}", err=True)
            failed += 1
            continue
        verified = (
            "converted before" if result.conversion is None else f"verified to {result.conversion.difference:.1e}"
        )
        typer.echo(f"{name}: {result.folder}, {verified}, {result.url or ('pushed before' if push else 'not pushed')}")
    raise typer.Exit(min(failed, 1))


if __name__ == "__main__":
    typer.run(main)
