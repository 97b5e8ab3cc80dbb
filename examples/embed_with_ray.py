"""
The vectors of a text, made by many processes or machines with Ray Data: a model per worker, parquet files come out.

    pip install 'elmo-hf[ray]'
    python examples/embed_with_ray.py TEXT... FOLDER --workers 2

Sentences get their numbers first, in FOLDER/sentences; FOLDER/vectors then has a row for each, in no order. Stopped in
the middle, by whatever, the same command goes on: Ray keeps the numbers of the rows that are written in FOLDER/done.
On a cluster, FOLDER is a place that all its machines see, and RAY_ADDRESS says where the cluster is.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# A cluster that this starts is on this machine and gone at the end; Ray reads this when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
import ray
from ray.data import DataContext
from ray.data.checkpoint import CheckpointConfig

from elmo_hf.files import atomic_file, atomic_folder
from elmo_hf.sentence_files import Sentence, SentenceFiles
from elmo_hf.table_embedding import EmbedTable

# Of sentences: one is read at a time.
ROWS_PER_FILE = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="TEXT", help="files, as `elmo-hf embed` reads them")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to make, or to go on in")
    parser.add_argument("--column", help="of tables: where the sentences are")
    parser.add_argument("--model", help="a folder, a released name or a Hub repository")
    parser.add_argument("--layers", default="mix", help="mix, top, average, sum, all or a number")
    parser.add_argument("--pooling", choices=["mean", "max"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--workers", type=int, default=2, help="processes with a model each, best one per core")
    parser.add_argument(
        "--rows", type=int, default=4096, help="sentences per file: what a dead worker has to do again"
    )
    arguments = parser.parse_args()

    layers: Any = int(arguments.layers) if arguments.layers.isdigit() else arguments.layers
    options = {"model": arguments.model, "layers": layers, "pooling": arguments.pooling, "dtype": arguments.dtype}
    try:
        sentences = SentenceFiles(arguments.inputs, column=arguments.column)
        check_same(arguments.folder / "options.json", {"sizes": [*map(os.path.getsize, sentences.paths)], **options})
        if not (arguments.folder / "sentences").exists():
            number_sentences(sentences, arguments.folder / "sentences")
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    embed(arguments.folder, arguments.workers, arguments.rows, {**options, "threads": 1})
    done = pq.ParquetDataset(arguments.folder / "vectors").read(["sentence"])
    print(f"{arguments.folder / 'vectors'}: {done.num_rows:,} sentences")


def check_same(record: Path, settings: dict[str, Any]) -> None:
    """Keeps what a folder was begun with, and refuses to go on in it with anything else."""
    if not record.exists():
        with atomic_file(record) as file:
            file.write_text(json.dumps(settings))
    elif changed := [name for name, value in json.loads(record.read_text()).items() if settings[name] != value]:
        raise ValueError(f"{record.parent} was begun with another {changed[0]}: take another folder.")


def number_sentences(sentences: Iterable[Sentence], folder: Path) -> None:
    """Writes parquet files of `sentence`, its number, and `text`."""
    numbered: Iterator[tuple[int, Sentence]] = enumerate(sentences)
    first = next(numbered, None)
    if first is None:
        raise SystemExit("error: the text must have a sentence, has none.")
    kind = pa.string() if isinstance(first[1], str) else pa.list_(pa.string())
    rows = chain([first], numbered)
    with atomic_folder(folder) as temporary:
        while piece := list(islice(rows, ROWS_PER_FILE)):
            indices, texts = zip(*piece, strict=True)
            table = pa.table({"sentence": pa.array(indices, pa.int64()), "text": pa.array(texts, kind)})
            pq.write_table(table, temporary / f"{indices[0]:012d}.parquet")


def embed(folder: Path, workers: int, rows: int, options: dict[str, Any], function: type = EmbedTable) -> None:
    """`options` are those of [`EmbedTable`], which `function` may refine; `rows` are sentences per block."""
    # Readers, writers and, when it goes on, filters need CPUs beside the workers: without them Ray waits for ever.
    if not ray.is_initialized():
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else 2 * workers + 2, include_dashboard=False)
    context = DataContext.get_current()
    # It would be deleted at the end, and the same command again would write every row twice.
    context.checkpoint_config = CheckpointConfig(
        id_column="sentence", checkpoint_path=str(folder / "done"), delete_checkpoint_on_success=False
    )
    # Small files would be read together, and all go to one worker.
    sentences = ray.data.read_parquet(str(folder / "sentences")).repartition(target_num_rows_per_block=rows)
    vectors = sentences.map_batches(
        function,
        fn_constructor_kwargs=options,
        batch_format="pyarrow",
        batch_size=None,  # a block
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    vectors.write_parquet(str(folder / "vectors"))


if __name__ == "__main__":
    main()
