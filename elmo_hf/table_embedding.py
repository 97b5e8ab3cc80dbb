"""Vectors of a column of a table, batch by batch, for libraries that share a text among processes or machines."""

from typing import Any

import torch

from .batching import BATCH_SIZE
from .corpus_embedding import embed_in_memory, load_embedder
from .embedding import Layers, are_several
from .files import PathLike
from .vector_files import arrow, arrow_columns


class EmbedTable:
    """
    Adds columns to a batch of rows: `words`, `starts` and `ends` (where they stand in the text, in characters), and
    `vectors`, or `layer_0`, ... where layers are several. What `map` of `datasets` and `map_batches` of Ray Data call.

        dataset.map(EmbedTable("elmo-original", column="text"), batched=True, num_proc=4)
        ray_dataset.map_batches(EmbedTable, fn_constructor_kwargs={"column": "text"}, batch_format="pyarrow")

    The model is loaded where the first batch is, once in each process, and stays behind when this is pickled.

    Args:
        model: as [`load_embedder`] takes it.
        column: of sentences, text or lists of words.
        layers: as for `ElmoEmbedder.embed`.
        pooling: as there.
        dtype: float32 or float16.
        batch_size: sentences that the model reads at once; those of a batch of rows are sorted by length.
        device: as [`load_embedder`] takes it.
        threads: of PyTorch in each process; where there is a process for each core, one is fastest. What is set
            there when absent.

    Raises:
        ValueError: an argument is impossible; those that only the model can tell, at the first batch.
    """

    def __init__(
        self,
        model: PathLike | None = None,
        column: str = "text",
        layers: Layers = "mix",
        pooling: str | None = None,
        dtype: str = "float32",
        batch_size: int = BATCH_SIZE,
        device: str | None = None,
        threads: int | None = None,
    ):
        if dtype not in ("float32", "float16"):
            raise ValueError(f"`dtype` must be float32 or float16 in a table, was: {dtype}.")
        self.model, self.column, self.layers, self.pooling, self.dtype = model, column, layers, pooling, dtype
        self.batch_size, self.device, self.threads = batch_size, device, threads
        self._embedder: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_embedder": None}

    def __call__(self, rows: Any) -> Any:
        """
        Args:
            rows: a pyarrow table, or a dict of columns.

        Returns:
            The same with more columns.

        Raises:
            ValueError: `column` is missing, or one of the new columns is there.
        """
        pa, _ = arrow()
        is_table = isinstance(rows, pa.Table)
        names = rows.column_names if is_table else list(rows)
        if self.column not in names:
            raise ValueError(f"`column` must be one of {', '.join(names)}, was: {self.column}.")
        sentences = rows[self.column].to_pylist() if is_table else list(rows[self.column])
        columns = arrow_columns(self._embedded(sentences), are_several(self.layers))
        if there := sorted(columns.keys() & set(names)):
            raise ValueError(f"The rows must have no column {there[0]}, which is made here.")
        if is_table:
            for name, values in columns.items():
                rows = rows.append_column(name, values)
            return rows
        return {**rows, **{name: values.to_pylist() for name, values in columns.items()}}

    def _embedded(self, sentences: list[Any]) -> Any:
        if self._embedder is None:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            self._embedder = load_embedder(self.model, self.batch_size, self.device)
        return embed_in_memory(self._embedder, sentences, self.layers, self.pooling, self.dtype)
