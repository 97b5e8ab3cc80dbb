"""
The command `elmo-hf`, a few lines over the library. It needs typer, which transformers 5 brings along.

PyTorch and what needs it are imported in the bodies of the commands, after what can be checked without: help and wrong
arguments are answered at once.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

try:
    import typer
    from typer.core import TyperCommand
except ImportError:
    sys.exit("elmo-hf: the command line needs typer: pip install 'elmo-hf[cli]'")
from safetensors import SafetensorError
from tqdm import tqdm

from .files import atomic_folder, check_model_folder, check_new_file
from .text_files import read_lines, text_files
from .training_options import check_training_options

if TYPE_CHECKING:
    from .checkpoints.bilm_tensors import Progress
    from .configuration_elmo import ElmoConfig
    from .modeling_elmo import ElmoForPreTraining
    from .scoring import SentenceScores
    from .tokenization_elmo import ElmoTokenizer


class _Command(TyperCommand):
    """A command whose help has words where recent versions of typer print types of Python."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            kind = getattr(parameter, "type_descriptor", None)
            if kind is None:
                # An older version, which has words of its own.
                continue
            if parameter.param_type_name == "argument":
                setattr(parameter, "display_type", lambda context: "")  # noqa: B010 (a method to type checkers)
            elif parameter.metavar is None and not kind.is_choice:
                (of_items,) = get_args(kind.annotation) if kind.is_list else (kind.annotation,)
                parameter.metavar = _WORDS.get(of_items)

    def collect_usage_pieces(self, context: Any) -> list[str]:
        arguments = (parameter for parameter in self.params if parameter.param_type_name == "argument")
        return ["[OPTIONS]", *(argument.metavar or argument.name.upper() for argument in arguments)]


_WORDS = {Path: "PATH", str: "TEXT", int: "NUMBER", float: "NUMBER"}

app = typer.Typer(
    help="ELMo for Hugging Face transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool):
    if is_asked:
        from . import __version__

        typer.echo(f"elmo-hf {__version__}")
        raise typer.Exit


# Without it, typer would take a program of one command for that command.
@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
):
    pass


@app.command(cls=_Command)
def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT OUT_DIR",
            help="A folder, a zip or a tar, a name from `elmo-hf released`, or OPTIONS.json WEIGHTS.hdf5; then the "
            "folder to create.",
        ),
    ],
    license: Annotated[str | None, typer.Option(help="License for the model card, such as apache-2.0.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing ELMo folder.")] = False,
    verify: Annotated[bool, typer.Option(help="Check the result against a plain computation from the files.")] = True,
    format: Annotated[
        str | None, typer.Option(help="hdf5, tensorflow, tfhub, allennlp or many-langs, where several would fit.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Which biLM of the folder or archive to convert, where it holds several.")
    ] = None,
    softmax: Annotated[Path | None, typer.Option(help="With OPTIONS and WEIGHTS: the softmax file.")] = None,
    vocab: Annotated[
        Path | None, typer.Option(help="With OPTIONS and WEIGHTS: the vocabulary of the softmax.")
    ] = None,
):
    """Convert a checkpoint of another library into a folder for from_pretrained and the Hub."""
    from .released import find_released

    with _one_line_errors(), _progress_bars() as progress:
        if not 2 <= len(paths) <= 3:
            raise ValueError(f"`convert` takes CHECKPOINT OUT_DIR or OPTIONS WEIGHTS OUT_DIR, got {len(paths)} paths.")
        if len(paths) == 2:
            find_released(paths[0])
        _import_quietly()
        from .checkpoints.conversion import convert_checkpoint

        conversion = convert_checkpoint(
            *paths,
            overwrite=overwrite,
            verify=verify,
            license=license,
            format=format,
            name=name,
            softmax_file=softmax,
            vocab_file=vocab,
            progress=progress,
        )
    config, output_dir = conversion.config, Path(paths[-1])
    typer.echo(f"\n{output_dir}")
    typer.echo(f"  from        {conversion.format}")
    typer.echo(f"  model       {_sizes(config)}")
    typer.echo(f"  parameters  {conversion.num_parameters:,} ({conversion.num_bytes / 1e6:,.1f} MB of safetensors)")
    if conversion.difference is None:
        typer.echo("  verified    no")
    else:
        typer.echo(f"  verified    all layers agree with these files to {conversion.difference:.1e} of their scale")
    for file, sha256 in conversion.sha256.items():
        typer.echo(f"  sha256      {sha256}  {file}")
    for note in conversion.notes:
        typer.echo(f"  note        {note}")
    typer.echo(
        f'\nNext:\n  AutoModel.from_pretrained("{output_dir}")    after `import elmo_hf`\n'
        f"  hf upload YOUR_NAME/{output_dir.name} {output_dir}"
    )


@app.command("released", cls=_Command)
def list_released(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show everything known about this one.")] = None,
):
    """List the released ELMo checkpoints, which `convert` takes by their names."""
    from .released import released, similar_names

    with _one_line_errors():
        entries = released()
        if name is not None and name not in entries:
            hint = ", ".join(similar_names(name)) or "none is like it"
            raise ValueError(f"`NAME` must be one of `elmo-hf released`, was: {name} ({hint}).")
    if name is not None:
        for key, value in vars(entries[name]).items():
            text = "\n            ".join(value) if isinstance(value, tuple) else str(value)
            if value:
                typer.echo(f"{key:<10}  {text}")
        return
    rows = [("NAME", "LANGUAGE", "FORMAT", "MB", "LICENCE", "WHAT IT IS", "TRAINED ON")]
    rows += [
        (one.name, one.language, one.format, str(one.size or "?"), one.license, one.title, one.text)
        for one in entries.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command(cls=_Command)
def export(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="A folder written by save_pretrained or convert.")
    ],
    options_file: Annotated[Path, typer.Argument(metavar="OPTIONS.json", help="The options file to write.")],
    weight_file: Annotated[Path, typer.Argument(metavar="WEIGHTS.hdf5", help="The weight file to write.")],
    softmax: Annotated[Path | None, typer.Option(help="Also write the softmax of a language model.")] = None,
    vocab: Annotated[Path | None, typer.Option(help="Also write the vocabulary of the softmax.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
):
    """Write the biLM of a folder as the files that AllenNLP and bilm-tf read."""
    with _one_line_errors():
        check_model_folder(model_dir)
        for path in (options_file, weight_file, softmax, vocab):
            if path is not None:
                check_new_file(path, overwrite)
        _import_quietly()
        from .checkpoints.conversion import export_checkpoint

        export_checkpoint(
            model_dir, options_file, weight_file, softmax_file=softmax, vocab_file=vocab, overwrite=overwrite
        )
    typer.echo("\n".join(str(path) for path in (options_file, weight_file, softmax, vocab) if path is not None))


@app.command("export-onnx", cls=_Command)
def print_onnx_export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a name from `elmo-hf released`, or a Hub repository.")
    ],
    onnx_file: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to create.")],
    language_model: Annotated[
        bool, typer.Option("--language-model", help="Export word probabilities instead of vectors.")
    ] = False,
    carry_states: Annotated[
        bool, typer.Option("--carry-states", help="Also take the LSTM states to start from as inputs.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the weights to 8 bits: smaller, but not exact.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
):
    """Export a model, including its head if it has one, to a file for onnxruntime."""
    with _one_line_errors():
        check_new_file(onnx_file, overwrite)
        _import_quietly()
        from .onnx_export import export_onnx, load_for_export

        done = export_onnx(
            load_for_export(model, language_model),
            onnx_file,
            carry_states=carry_states,
            int8=int8,
            overwrite=overwrite,
        )
    typer.echo(f"{done.path} ({done.path.stat().st_size / 1e6:,.1f} MB)")
    for kind, tensors in (("input", done.inputs), ("output", done.outputs)):
        for name, shape in tensors.items():
            typer.echo(f"  {kind:<11} {name} ({', '.join(map(str, shape))})")
    if done.cosine is None:
        typer.echo(f"  verified    onnxruntime agrees with PyTorch to {done.difference:.1e} of each output's scale")
    else:
        typer.echo(f"  8 bits      lowest cosine {done.cosine:.4f} to the model, off by up to {done.difference:.1e}")


@app.command(cls=_Command)
def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="Text files, or - for standard input; then the file of vectors to create: .hdf5, .parquet, .npz or "
            ".safetensors.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A folder, a name from `elmo-hf released`, or a Hub repository. [default: elmo-english]"),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="mix, top, average, sum, all, or layer numbers separated by commas.")
    ] = "mix",
    pooling: Annotated[str | None, typer.Option(help="One vector per sentence: mean or max of its words.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or, in safetensors, bfloat16.")] = "float32",
    kind: Annotated[
        str | None,
        typer.Option(
            help="Type of the input: text (one sentence per line), words (split at spaces), conllu, fasta, csv, tsv, "
            "jsonl or parquet. [default: by their names]"
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Which column of a table holds the sentences.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="How to split text into words: moses, whitespace or characters. [default: as for the model]"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Embed only the Ith of N parts of the text, to share it among machines."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Read sentences longer than this in windows of this many words.")
    ] = None,
    overlap: Annotated[int, typer.Option(min=0, help="Words that neighbouring windows share.")] = 0,
    carry_state: Annotated[
        bool, typer.Option("--carry-state", help="Start each sentence from the state the previous one left; slower.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Largest number of sentences per batch.")] = 128,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 and so on. [default: CUDA if available]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
):
    """
    Write the vectors of a text to a file. Run the same command again to resume.
    """
    with _one_line_errors():
        if len(paths) < 2:
            raise ValueError(f"`embed` takes INPUT... OUTPUT, got {len(paths)} path.")
        from .sentence_files import SentenceFiles
        from .vector_files import kind_of_vectors

        *inputs, output = paths
        sentences, of_machines, chosen = SentenceFiles(inputs, kind, column), _shard(shard), _layers(layers)
        kind_of_vectors(output, dtype)
        check_new_file(output, overwrite)
        _import_quietly()
        from .corpus_embedding import embed_sentences_to_file, load_embedder
        from .tokenization_elmo import ElmoTokenizer

        embedder = load_embedder(model, batch_size, device)
        if split is not None:
            # Of a new one, which checks it; this one keeps its lexicon.
            embedder.tokenizer.word_splitter = ElmoTokenizer(word_splitter=split).word_splitter
        with tqdm(total=sentences.size or None, bar_format=_EMBED_BAR, desc="Embedding") as bar:
            words = 0

            def progress(number: int):
                nonlocal words
                words += number
                bar.n = min(sentences.place, sentences.size)
                bar.set_postfix_str(
                    f"{words:,} words, {words / max(bar.format_dict['elapsed'], 1e-9):,.0f} per second"
                )

            done = embed_sentences_to_file(
                embedder,
                sentences,
                output,
                layers=chosen,
                pooling=pooling,
                dtype=dtype,
                shard=of_machines,
                window=window,
                overlap=overlap,
                carry_state=carry_state,
                overwrite=overwrite,
                progress=progress,
            )
    skipped = f", {done.num_skipped:,} of them before" if done.num_skipped else ""
    typer.echo(f"{done.path}\n  {done.num_sentences:,} sentences{skipped}, {done.num_words:,} words")


@app.command(cls=_Command)
def types(
    paths: Annotated[
        list[str], typer.Argument(metavar="INPUT... OUTPUT", help="Text files, then the file to create.")
    ],
    model: Annotated[str | None, typer.Option(help="As for `embed`. [default: elmo-english]")] = None,
    layers: Annotated[str, typer.Option(help="One vector per word: average, top, mix or a number.")] = "average",
    min_count: Annotated[int, typer.Option(min=1, help="Leave out words that occur less often.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
):
    """Write the average vector of each word of a text, as a word2vec file that gensim opens."""
    with _one_line_errors():
        if len(paths) < 2:
            raise ValueError(f"`types` takes INPUT... OUTPUT, got {len(paths)} path.")
        from .sentence_files import SentenceFiles

        *inputs, output = paths
        sentences, chosen = SentenceFiles(inputs), _layers(layers)
        check_new_file(output, overwrite)
        _import_quietly()
        from .corpus_embedding import load_embedder
        from .usage import type_vectors, write_word2vec

        vectors = type_vectors(load_embedder(model), tqdm(sentences, unit=" sentences"), chosen, min_count)
        write_word2vec(vectors, output, overwrite)
    typer.echo(f"{output}\n  {len(vectors):,} words")


@app.command(cls=_Command)
def change(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A text, one sentence per line.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The text to compare it with.")],
    model: Annotated[str | None, typer.Option(help="As for `embed`. [default: elmo-english]")] = None,
    layers: Annotated[str, typer.Option(help="One vector per word: average, top, mix or a number.")] = "average",
    words: Annotated[
        str | None, typer.Option(help="Words to compare, separated by commas. [default: the frequent ones]")
    ] = None,
    min_count: Annotated[int, typer.Option(min=2, help="Leave out words that occur less often in either text.")] = 20,
    max_words: Annotated[
        int, typer.Option(min=1, help="Compare at most this many words, the most frequent ones.")
    ] = 500,
    top: Annotated[int, typer.Option(min=1, help="How many words to print.")] = 20,
    sentences: Annotated[bool, typer.Option("--sentences", help="Also print sentences that show the change.")] = False,
):
    """List the words that two texts use most differently."""
    with _one_line_errors():
        from .sentence_files import SentenceFiles

        texts, chosen = [SentenceFiles([old]), SentenceFiles([new])], _layers(layers)
        _import_quietly()
        from .corpus import count_words
        from .corpus_embedding import load_embedder
        from .usage import change_between, uses_of_words, words_for_change

        embedder = load_embedder(model)
        if words is None:
            counts = [
                count_words(embedder.tokenizer.tokenize(one) if isinstance(one, str) else one for one in text)
                for text in texts
            ]
            wanted = words_for_change(counts[0], counts[1], min_count, max_words)
        else:
            wanted = [word.strip() for word in words.split(",")]
        found = [uses_of_words(embedder, tqdm(text, unit=" sentences"), wanted, chosen) for text in texts]
        changes = change_between(found[0], found[1])
        if not changes:
            raise ValueError("`OLD` and `NEW` must share a word that is frequent enough, did not. See --min-count.")
    typer.echo(f"{'word':<20} {'apd':>6} {'proto':>6} {'jsd':>6}  {'old':>7} {'new':>7}")
    for one in changes[:top]:
        typer.echo(
            f"{one.word:<20} {one.apd:6.3f} {one.prototype:6.3f} {one.jsd:6.3f}  {one.counts[0]:7,} {one.counts[1]:7,}"
        )
        if sentences:
            for mark, examples in zip("-+", one.examples, strict=True):
                for example in examples:
                    typer.echo(f"  {mark} {' '.join(example)[:100]}")


@app.command("geometry", cls=_Command)
def print_geometry(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Text files.")],
    model: Annotated[str | None, typer.Option(help="As for `embed`. [default: elmo-english]")] = None,
    sentences: Annotated[
        int, typer.Option(min=1, help="Read at most this many sentences; they are held in memory.")
    ] = 2000,
):
    """Print how contextual each layer is, as in Ethayarajh (2019)."""
    with _one_line_errors():
        from .sentence_files import SentenceFiles

        read = islice(SentenceFiles(text), sentences)
        _import_quietly()
        from .corpus_embedding import load_embedder
        from .usage import geometry

        found = geometry(load_embedder(model), tqdm(read, unit=" sentences"))
    typer.echo("layer  random pairs  same word  word and sentence  first component")
    for layer in found:
        typer.echo(
            f"{layer.layer:5}  {layer.random_similarity:12.3f}  {layer.self_similarity:9.3f}  "
            f"{layer.sentence_similarity:17.3f}  {layer.first_component:15.3f}"
        )


_EMBED_BAR = "{desc} {percentage:3.0f}% |{bar:30}| {elapsed}<{remaining} {postfix}"


@app.command(cls=_Command)
def show(
    what: Annotated[str, typer.Argument(metavar="WORD_OR_SENTENCE", help="A word, or a sentence in quotes.")],
    text: Annotated[list[str], typer.Option("--text", help="A text file; may be repeated.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The picture to create, .png, .svg or .pdf. [default: named after the word or sentence]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As for `embed`. [default: elmo-english]")] = None,
    layers: Annotated[str, typer.Option(help="One vector per word: average, top, mix or a number.")] = "average",
    clusters: Annotated[
        int | None, typer.Option(min=1, max=6, help="Number of groups of uses. [default: the best fit]")
    ] = None,
    max_uses: Annotated[int, typer.Option(min=1, help="Draw at most this many uses of a word.")] = 300,
    neighbors: Annotated[int, typer.Option(min=1, help="Nearest neighbours to show for each word of a sentence.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
):
    """Draw the uses of a word in a text, or the nearest neighbours of each word of a sentence."""
    with _one_line_errors():
        from .sentence_files import SentenceFiles

        sentences, chosen = SentenceFiles(text), _layers(layers)
        _import_quietly()
        from .corpus_embedding import load_embedder
        from .pictures import check_picture, draw_sentence, draw_word
        from .usage import clusters_of, neighbors_in_context, uses_of_words

        embedder = load_embedder(model)
        words = embedder.tokenizer.tokenize(what)
        if not words:
            raise ValueError("`WORD_OR_SENTENCE` must have a word, was empty.")
        path = output or Path(f"{'_'.join(words[:5]).replace('/', '_')}.png")
        check_picture(path, overwrite)
        bar = tqdm(sentences, unit=" sentences")
        if len(words) == 1:
            uses = uses_of_words(embedder, bar, words, chosen, max_uses).get(words[0])
            if uses is None:
                raise ValueError(f"`WORD` must be in the text as it is written here, was not: {words[0]}.")
            draw_word(words[0], uses, clusters_of(uses, clusters), path, overwrite)
        else:
            draw_sentence(*neighbors_in_context(embedder, what, bar, chosen, neighbors), path, overwrite)
    typer.echo(str(path))


def _import_quietly():
    """PyTorch and transformers, whose bars would run through ours."""
    from transformers.utils import logging

    from .registration import register

    register()
    logging.disable_progress_bar()


_LAYERS = ("mix", "top", "average", "sum", "all")


def _layers(text: str) -> Any:
    """What `ElmoEmbedder.embed` takes as `layers`."""
    numbers = text.split(",")
    if all(number.strip().isdigit() for number in numbers):
        return int(text) if len(numbers) == 1 else [int(number) for number in numbers]
    if text not in _LAYERS:
        raise ValueError(f"`--layers` must be one of {', '.join(_LAYERS)}, or numbers of layers, was: {text}.")
    return text


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, slash, total = text.partition("/")
    if not (slash and number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise ValueError(f"`--shard` must be I/N, I from 1 to N, was: {text}.")
    return int(number) - 1, int(total)


class Optimizer(StrEnum):
    adagrad = "adagrad"
    adamw = "adamw"


@app.command(cls=_Command)
def pretrain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_OR_MODEL",
            help="A folder with a config.json; to train a model further, its folder, elmo-english or a released name.",
        ),
    ],
    train: Annotated[
        list[Path],
        typer.Option(
            help="A file, one sentence per line, a folder or a pattern such as 'news.en-*'; may be repeated."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The folder to create.")],
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help="Held-out text: its perplexity is measured.")
    ] = None,
    vocab: Annotated[Path | None, typer.Option(help="The words to predict, one per line.")] = None,
    min_count: Annotated[
        int | None, typer.Option(help="Predict words that occur at least this often. [default: 3]")
    ] = None,
    max_vocab: Annotated[
        int | None, typer.Option(help="Predict at most this many words, the most frequent ones.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Batch size of each process: streams, or sentences with --sentences.")
    ] = 128,
    unroll_steps: Annotated[int, typer.Option(min=1, help="Words per stream and batch.")] = 20,
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Shuffle sentences and start each from the initial state.")
    ] = False,
    read_last_boundary: Annotated[
        bool, typer.Option(help="Feed the boundary at the end of a sentence to the LSTMs; bilm-tf does not.")
    ] = True,
    epochs: Annotated[float, typer.Option(help="Passes over the text.")] = 10.0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many batches, whatever --epochs says.")
    ] = None,
    optimizer: Annotated[
        Optimizer, typer.Option(help="adagrad as in bilm-tf, or adamw as for elmo-novels.")
    ] = Optimizer.adagrad,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 0.2 with adagrad, 0.003 with adamw]")] = None,
    sampled_words: Annotated[
        int | None,
        typer.Option(min=0, help="Size of the sampled softmax, 0 for the full one. [default: as configured]"),
    ] = None,
    pretokenized: Annotated[
        bool, typer.Option("--pretokenized", help="The text is already split into words by spaces.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bfloat16: faster on processors that have instructions for it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --output from its last checkpoint.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 42,
    save_steps: Annotated[
        int | None, typer.Option(min=1, help="Write a checkpoint every so many batches. [default: every epoch]")
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option(min=1, help="Evaluate every so many batches. [default: every epoch]")
    ] = None,
    log_to: Annotated[
        str | None, typer.Option(help="A logger that transformers knows: tensorboard, wandb and others.")
    ] = None,
):
    """
    Train a biLM on text, from scratch or from the weights of a folder.

    Without --vocab, --min-count and --max-vocab, the vocabulary is that of the folder if it has a vocab.txt, otherwise
    that of the text. If it differs from the one the model was trained with, the softmax starts from scratch.
    """
    with _one_line_errors(_PRETRAIN_OPTIONS):
        check_training_options(epochs, max_steps, learning_rate, optimizer, vocab, min_count, max_vocab)
        for path in (*train, *(evaluation or ()), *(() if vocab is None else (vocab,))):
            text_files(path)
        folder = _model_folder(model)
        _import_quietly()
        from .pretraining import pretrain

        done = pretrain(
            folder,
            train,
            output,
            evaluation=evaluation,
            vocab=vocab,
            min_count=min_count,
            max_vocab=max_vocab,
            rows=rows,
            unroll_steps=unroll_steps,
            sentences=sentences,
            read_last_boundary=read_last_boundary,
            epochs=epochs,
            max_steps=max_steps,
            optimizer=optimizer.value,
            learning_rate=learning_rate,
            sampled_words=sampled_words,
            pretokenized=pretokenized,
            bf16=bf16,
            resume=resume,
            seed=seed,
            save_steps=save_steps,
            eval_steps=eval_steps,
            log_to=log_to,
        )
        _leave_the_others()
    if done is None:
        return
    typer.echo(f"\n{output}")
    typer.echo(f"  model       {_sizes(done.config)}")
    typer.echo(f"  words       {done.num_predicted_words:,} to predict")
    typer.echo(f"  training    {done.num_batches:,} batches of a text of {done.num_words:,} words")
    if done.metrics:
        average, ahead, behind = (done.metrics[f"eval_{name}perplexity"] for name in ("", "forward_", "backward_"))
        typer.echo(f"  perplexity  {average:,.2f} (forward {ahead:,.2f}, backward {behind:,.2f})")


@app.command(cls=_Command)
def perplexity(
    text: Annotated[
        list[Path],
        typer.Argument(metavar="TEXT...", help="Files, one sentence per line, folders or patterns; - for stdin."),
    ],
    model: Annotated[
        str | None, typer.Option(help="A folder or a name from `elmo-hf released`. [default: elmo-english]")
    ] = None,
    carry_state: Annotated[
        bool, typer.Option("--carry-state", help="Start each sentence from the state the previous one left; slower.")
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="First print each word with the logarithms of both its probabilities.")
    ] = False,
    pretokenized: Annotated[
        bool, typer.Option("--pretokenized", help="The text is already split into words by spaces.")
    ] = False,
):
    """Measure how well a language model predicts a text: exactly, in both directions."""

    def printed(scores: "SentenceScores") -> "SentenceScores":
        for word, forward, backward in zip(scores.words, scores.forward, scores.backward, strict=False):
            typer.echo(f"{word}\t{forward:.3f}\t{backward:.3f}")
        typer.echo(f"</S>\t{scores.forward[-1]:.3f}\t\n<S>\t\t{scores.backward[-1]:.3f}\n")
        return scores

    with _one_line_errors():
        lines = read_lines(text)
        language_model, tokenizer = _language_model(model)
        from .scoring import perplexity_of_scores, score_sentences

        sentences = map(str.split if pretokenized else tokenizer.tokenize, lines)
        scores = score_sentences(language_model, tokenizer, sentences, carry_state)
        # To a terminal, and not among the words.
        with tqdm(scores, unit=" sentences", disable=None if not words else True, leave=False) as progress:
            result = perplexity_of_scores(map(printed, scores) if words else progress)
    typer.echo(
        f"perplexity  {result.average:,.2f} (forward {result.forward:,.2f}, backward {result.backward:,.2f})\n"
        f"of          {result.num_words:,} words in {result.num_sentences:,} sentences, "
        f"{result.num_unknown / result.num_words:.2%} of them <UNK>"
    )


@app.command(cls=_Command)
def substitutes(
    sentence: Annotated[str, typer.Argument(help="Text with one word in [brackets].")],
    model: Annotated[
        str | None, typer.Option(help="A folder or a name from `elmo-hf released`. [default: elmo-english]")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many words to print.")] = 10,
):
    """List the words most likely to stand in the place of one word."""
    with _one_line_errors():
        before, bracket, rest = sentence.partition("[")
        word, closing, after = rest.partition("]")
        if not (bracket and closing and len(word.split()) == 1) or "[" in rest or "]" in before + after:
            raise ValueError(f"The sentence must have one word in [brackets], was: {sentence!r}.")
        language_model, tokenizer = _language_model(model)
        from .scoring import substitutes

        ahead = tokenizer.tokenize(before)
        words = [*ahead, word.strip(), *tokenizer.tokenize(after)]
        found = substitutes(language_model, tokenizer, words, len(ahead), top)
    for candidate, probability in found:
        typer.echo(f"{probability:.4f}  {candidate}")


@app.command("fit-initial-state", cls=_Command)
def fit_initial_state_of_folder(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, elmo-english or a name from `elmo-hf released`.")
    ],
    text: Annotated[
        list[Path],
        typer.Argument(metavar="TEXT...", help="Files, one sentence per line, folders or patterns; - for stdin."),
    ],
    output_dir: Annotated[Path, typer.Option("--output", help="The folder to create.")],
    sentences: Annotated[int, typer.Option(min=1, help="Read at most this many sentences.")] = 1000,
):
    """Copy a model folder and add an initial state: the average of the states that sentences of a text end in."""
    with _one_line_errors():
        lines = read_lines(text)
        start = _model_folder(model)
        _import_quietly()
        from .checkpoints.hub_folder import load_config, load_model, load_tokenizer
        from .modeling_elmo import ElmoForPreTraining, ElmoModel
        from .scoring import fit_initial_state

        config = load_config(start)
        with atomic_folder(output_dir) as folder:
            tokenizer = load_tokenizer(start, config)
            is_language_model = "ElmoForPreTraining" in (config.architectures or ())
            loaded = load_model(start, ElmoForPreTraining if is_language_model else ElmoModel, config)
            bilm: Any = loaded.base_model
            fit_initial_state(bilm, tokenizer, islice(lines, sentences))
            loaded.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    typer.echo(f"{output_dir}")


def _leave_the_others():
    """Ends the work of several processes, whose threads could outlive the interpreter and abort it."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _language_model(model: str | None) -> "tuple[ElmoForPreTraining, ElmoTokenizer]":
    folder = _model_folder(model)
    _import_quietly()
    from .checkpoints.hub_folder import load_language_model

    return load_language_model(folder)


def _model_folder(model: str | None) -> Path:
    """The folder of a model, before anything heavy is imported."""
    from .small_model import find_model

    folder = Path(find_model(model))
    check_model_folder(folder)
    return folder


def _sizes(config: "ElmoConfig") -> str:
    parts = [f"{config.num_hidden_layers} layers x 2 directions, {config.cell_size} cells projected to "]
    parts[0] += f"{config.projection_dim}"
    if config.word_embedding_dim:
        parts.append(f"{config.word_lexicon_size - 1:,} words")
    if config.max_characters_per_token:
        parts.append(f"{config.num_filters} character filters, {config.num_highway_layers} highways")
    return "; ".join(parts)


# What the library calls an argument, and the command an option.
_OPTIONS = {
    "overwrite": "--overwrite",
    "dtype": "--dtype",
    "kind": "--kind",
    "column": "--column",
    "device": "--device",
    "pooling": "--pooling",
    "layers": "--layers",
    "window": "--window",
    "overlap": "--overlap",
    "carry_state": "--carry-state",
    "carry_states": "--carry-states",
    "int8": "--int8",
    "min_count": "--min-count",
    "word_splitter": "--split",
    "format": "--format",
    "name": "--name",
    "license": "--license",
    "softmax_file": "--softmax",
    "vocab_file": "--vocab",
}


# The same for `pretrain` alone.
_PRETRAIN_OPTIONS = {
    "model_dir": "CONFIG_OR_MODEL",
    "evaluation": "--eval",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            *("train", "vocab", "max_vocab", "rows", "unroll_steps", "sentences", "read_last_boundary", "epochs"),
            *("max_steps", "optimizer", "learning_rate", "sampled_words", "pretokenized", "resume", "seed", "log_to"),
            *("min_count", "bf16", "save_steps", "eval_steps"),
        )
    },
}


@contextmanager
def _one_line_errors(more_options: Mapping[str, str] | None = None) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Whoever read the output has read enough, `| head` for example; typer ends without a word.
        raise
    # The last is what a full disk looks like to safetensors.
    except (ValueError, TypeError, OSError, ImportError, SafetensorError) as error:
        message = " ".join(str(error).split())
        for argument, option in {**_OPTIONS, **(more_options or {})}.items():
            message = message.replace(f"`{argument}`", f"`{option}`")
        # A name in a damaged file may be of any length, and of any characters.
        message = "".join(letter if letter.isprintable() else "?" for letter in message)
        typer.echo(f"elmo-hf: {message if len(message) <= 480 else message[:477] + '...'}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _progress_bars() -> "Iterator[Progress]":
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
