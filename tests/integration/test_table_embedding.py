"""`EmbedTable` in `datasets.map`: with dicts and with arrow tables, in one process and in two."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from elmo_hf import ElmoEmbedder
from elmo_hf.corpus_embedding import load_embedder
from elmo_hf.table_embedding import EmbedTable

TEXT = ["The river bank was muddy.", "", "Yes", "don't / stop"] * 5


@pytest.fixture(scope="module")
def embedder() -> ElmoEmbedder:
    return load_embedder(device="cpu")


def check(rows: Any, embedder: ElmoEmbedder, **options: Any) -> None:
    assert rows["text"][:] == TEXT
    for row, expected in zip(rows, embedder.embed(TEXT, **options), strict=True):
        given = np.array(row["vectors"], dtype=np.float32).reshape(expected.shape)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
        assert [row["text"][start:end] for start, end in zip(row["starts"], row["ends"], strict=True)] == row["words"]


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize("kind", ["arrow", None])
def test_datasets_map_adds_the_columns(
    processes: int | None, kind: str | None, embedder: ElmoEmbedder, tmp_path: Path
):
    dataset = Dataset.from_dict({"text": TEXT}).with_format(kind)
    embedded = dataset.map(
        EmbedTable(threads=1 if processes else None),
        batched=True,
        batch_size=7,
        num_proc=processes,
        cache_file_name=str(tmp_path / "cache.arrow"),
    )
    check(embedded.with_format(None), embedder)


def test_a_table_keeps_its_columns_and_gets_lists_of_fixed_size(embedder: ElmoEmbedder):
    table = pa.table({"text": TEXT, "id": list(range(20))})
    found = EmbedTable(layers=[0, 2], dtype="float16")(table)
    assert found.column_names == ["text", "id", "words", "starts", "ends", "layer_0", "layer_1"]
    assert found.schema.field("layer_1").type == pa.list_(pa.list_(pa.float16(), 320))
    pooled = EmbedTable(pooling="mean")({"text": TEXT[:2]})
    assert [len(vector) for vector in pooled["vectors"]] == [320, 320]
    np.testing.assert_allclose(pooled["vectors"][0], next(embedder.embed(TEXT[:1], pooling="mean")), atol=1e-6)


def test_no_rows_are_a_table_of_the_same_columns():
    whole, none = (EmbedTable(layers="all")(pa.table({"text": pa.array(text, pa.string())})) for text in (TEXT, []))
    assert (none.num_rows, none.schema) == (0, whole.schema)
    assert EmbedTable(pooling="max")({"text": []})["vectors"] == []


def test_it_is_pickled_without_its_model():
    function = EmbedTable()
    function({"text": ["a"]})
    assert len(pickle.dumps(function)) < 1000
    assert pickle.loads(pickle.dumps(function))({"text": ["a b"]})["words"] == [["a", "b"]]


def test_what_is_wrong_with_a_table_is_told():
    with pytest.raises(ValueError, match="`column` must be one of other, was: text"):
        EmbedTable()({"other": ["a"]})
    with pytest.raises(ValueError, match="The rows must have no column words, which is made here"):
        EmbedTable()({"text": ["a"], "words": [["a"]]})
    with pytest.raises(ValueError, match="`dtype` must be float32 or float16 in a table, was: bfloat16"):
        EmbedTable(dtype="bfloat16")
    with pytest.raises(ValueError, match="`layers` must be one of mix"):
        EmbedTable(layers="none")({"text": ["a"]})


def test_the_lines_of_the_page_run(embedder: ElmoEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "corpus.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "news.txt").write_text("The river bank was muddy.\nYes\n", encoding="utf-8")
    found: dict[str, Any] = {}
    exec(code, found)
    expected = list(embedder.embed(["The river bank was muddy.", "Yes"]))
    for row, vectors in zip(found["dataset"], expected, strict=True):
        np.testing.assert_allclose(np.array(row["vectors"]), vectors, rtol=0, atol=1e-6)
