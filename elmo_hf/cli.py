"""The command `elmo-hf`, a few lines over the library. It needs typer, which transformers 5 brings along."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError:
    sys.exit("elmo-hf: the command line needs typer: pip install 'elmo-hf[cli]'")
from tqdm import tqdm
from transformers.utils import logging

from .checkpoints.bilm_hdf5 import Progress, convert_checkpoint, export_checkpoint

app = typer.Typer(
    help="ELMo for Hugging Face transformers.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


# Without it, typer would take a program of one command for that command.
@app.callback()
def main():
    # The library's bars would run through ours.
    logging.disable_progress_bar()


@app.command()
def convert(
    options_file: Annotated[Path, typer.Argument(metavar="OPTIONS.json", help="Options of bilm-tf or AllenNLP.")],
    weight_file: Annotated[Path, typer.Argument(metavar="WEIGHTS.hdf5", help="The weights that belong to them.")],
    output_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The folder to make, new or empty.")],
    license: Annotated[str | None, typer.Option(help="For the model card, apache-2.0 for example.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an ELMo folder that is there.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the result with a plain computation from the hdf5.")] = True,
):
    """Turn a checkpoint of bilm-tf or AllenNLP into a folder for from_pretrained and the Hub."""
    with _one_line_errors(), _progress_bars() as progress:
        conversion = convert_checkpoint(
            options_file,
            weight_file,
            output_dir,
            overwrite=overwrite,
            verify=verify,
            license=license,
            progress=progress,
        )
    config = conversion.config
    typer.echo(f"\n{output_dir}")
    typer.echo(
        f"  model       {config.num_hidden_layers} layers x 2 directions, {config.cell_size} cells projected to "
        f"{config.projection_dim}; {config.num_filters} character filters, {config.num_highway_layers} highways"
    )
    typer.echo(f"  parameters  {conversion.num_parameters:,} ({conversion.num_bytes / 1e6:,.1f} MB of safetensors)")
    if conversion.difference is None:
        typer.echo("  verified    no")
    else:
        typer.echo(f"  verified    all layers agree with the hdf5 file to {conversion.difference:.1e} of their scale")
    for name, sha256 in conversion.sha256.items():
        typer.echo(f"  sha256      {sha256}  {name}")
    typer.echo(
        f'\nNext:\n  AutoModel.from_pretrained("{output_dir}")    after `import elmo_hf`\n'
        f"  hf upload YOUR_NAME/{output_dir.name} {output_dir}"
    )


@app.command()
def export(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A folder of save_pretrained or convert.")],
    options_file: Annotated[Path, typer.Argument(metavar="OPTIONS.json", help="The options to write.")],
    weight_file: Annotated[Path, typer.Argument(metavar="WEIGHTS.hdf5", help="The weights to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
):
    """Write the biLM of a folder as the files that AllenNLP and bilm-tf read."""
    with _one_line_errors():
        export_checkpoint(model_dir, options_file, weight_file, overwrite=overwrite)
    typer.echo(f"{options_file}\n{weight_file}")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"elmo-hf: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _progress_bars() -> Iterator[Progress]:
    """One bar a step, on the error stream."""
    bars: dict[str, tqdm] = {}

    def progress(step: str, done: int, total: int):
        if step not in bars:
            bars[step] = tqdm(
                total=total, desc=f"{step:<9}", bar_format="{desc} {percentage:3.0f}% |{bar:40}| {elapsed}"
            )
        bars[step].update(done - bars[step].n)
        if done == total:
            bars[step].close()

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
