"""`elmo-hf embed` and what is behind it: files in, files of vectors out, in order, resumed, in every format."""

import bz2
import gzip
import json
import lzma
import multiprocessing
import os
import random
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import elmo_hf.batching
import elmo_hf.corpus_embedding
from elmo_hf import ElmoEmbedder, ElmoTokenizer, load_default
from elmo_hf.checkpoints.conversion import convert_checkpoint
from elmo_hf.corpus_embedding import embed_files, embed_sentences_to_file, load_embedder
from elmo_hf.sentence_files import SentenceFiles
from tests.checkpoints.test_formats import MANY_LANGS
from tests.language_model import language_model, word_tokenizer
from tests.test_cli import run
from tests.test_cli_kills import begin_in_a_fork
from tests.tiny import tiny_model

FORK = multiprocessing.get_context("fork")
TEXT = ["The river bank was muddy.", "", "Yes", "don't / stop", "The river bank was muddy."] * 8
SUFFIXES = [".hdf5", ".parquet", ".npz", ".safetensors"]


@pytest.fixture
def embedder() -> ElmoEmbedder:
    return ElmoEmbedder(tiny_model(), ElmoTokenizer(), batch_size=3)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elmo_hf.batching, "WINDOW_WORDS", 12)
    monkeypatch.setattr(elmo_hf.corpus_embedding, "WINDOWS_PER_PART", 2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("\n".join(TEXT) + "\n", encoding="utf-8")
    return tmp_path / "text.txt"


def vectors_in(path: Path) -> dict[int, np.ndarray]:
    """By number of sentence; float32."""
    if path.suffix == ".hdf5":
        with h5py.File(path) as file:
            return {int(name): file[name][()].astype(np.float32) for name in file if name != "sentence_to_index"}
    if path.suffix == ".npz":
        with np.load(path) as file:
            return {int(name): file[name].astype(np.float32) for name in file}
    if path.suffix == ".safetensors":
        return {int(name): value.float().numpy() for name, value in load_file(path).items()}
    table = pq.read_table(path)
    found = {}
    for row, index in enumerate(table["sentence"].to_pylist()):
        names = [name for name in table.column_names if name == "vectors" or name.startswith("layer_")]
        layers = [np.array(table[name][row].as_py(), dtype=np.float32).reshape(-1, 12) for name in names]
        found[index] = layers[0] if names == ["vectors"] else np.stack(layers)
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("layers", ["mix", "all", [0, 2]])
def test_vectors_are_those_of_the_embedder(
    suffix: str, layers: Any, embedder: ElmoEmbedder, text: Path, tmp_path: Path, small_parts: None
):
    output = tmp_path / f"out{suffix}"
    done = embed_files(embedder, [text], output, layers=layers)
    assert (done.num_sentences, done.num_words) == (40, 8 * (6 + 0 + 1 + 4 + 6))
    found = vectors_in(output)
    assert list(found) == sorted(found) or suffix != ".parquet"
    for index, expected in enumerate(embedder.embed(TEXT, layers)):
        given = found[index].reshape(expected.shape)
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, "text.txt"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_halves_are_as_exact_as_they_can_be(
    suffix: str, dtype: str, tolerance: float, embedder: ElmoEmbedder, text: Path, tmp_path: Path
):
    output = tmp_path / f"out{suffix}"
    if dtype == "bfloat16" and suffix != ".safetensors":
        with pytest.raises(ValueError, match=f"`dtype` must be float32 or float16 in {suffix}, was: bfloat16"):
            embed_files(embedder, [text], output, dtype=dtype)
        return
    embed_files(embedder, [text], output, dtype=dtype, pooling="mean", layers="top")
    for index, expected in enumerate(embedder.embed(TEXT, "top", "mean")):
        np.testing.assert_allclose(vectors_in(output)[index].reshape(-1), expected, rtol=tolerance, atol=tolerance)


def test_the_layout_of_hdf5_is_that_of_allennlp_and_bilm_tf(embedder: ElmoEmbedder, text: Path, tmp_path: Path):
    embed_files(embedder, [text], tmp_path / "out.hdf5", layers="all")
    # As the documentation of AllenNLP 0.9 reads it.
    with h5py.File(tmp_path / "out.hdf5", "r") as file:
        sentence_to_index = json.loads(file.get("sentence_to_index")[0])
        embedding = file[sentence_to_index["don't / stop"]][...]
        assert embedding.shape == (3, 4, 12)
        # And as bilm-tf's usage_cached.py does: by the number of the line.
        assert [file[str(index)].shape[1] for index in range(5)] == [6, 0, 1, 4, 6]


def test_the_columns_of_parquet_say_where_words_stand(embedder: ElmoEmbedder, text: Path, tmp_path: Path):
    embed_files(embedder, [text], tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    row = table.slice(3, 1).to_pylist()[0]
    assert [TEXT[3][start:end] for start, end in zip(row["starts"], row["ends"], strict=True)] == row["words"]
    assert table.schema.field("vectors").type == pa.list_(pa.list_(pa.float32(), 12))
    from datasets import Dataset

    loaded = Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert np.array(loaded[0]["vectors"]).shape == (6, 12)


# --- inputs ----------------------------------------------------------------------------------------------------------


def sentences_of(path: Path, content: bytes, **options: Any) -> list[Any]:
    path.write_bytes(content)
    return list(SentenceFiles([path], **options))


def test_every_kind_of_file_is_read(tmp_path: Path):
    conllu = b"# text\n1-2\tdu\t_\n1\tde\t_\n2\tle\t_\n2.1\tx\t_\n\n1\tOui\t_\n"
    assert sentences_of(tmp_path / "a.conllu", conllu) == [["de", "le"], ["Oui"]]
    assert sentences_of(tmp_path / "a.fasta", b">one\nMK\nV*\n>none\n>two\nA\n") == [["M", "K", "V"], [], ["A"]]
    assert sentences_of(tmp_path / "a.csv", b'text,x\n"a, b",1\nc,2\n', column="text") == ["a, b", "c"]
    assert sentences_of(tmp_path / "a.tsv", b"x\ttext\n1\tb c\n", column="text") == ["b c"]
    jsonl = b'{"text": "a b"}\n\n{"text": ["c", "d"]}\n'
    assert sentences_of(tmp_path / "a.jsonl", jsonl, column="text") == ["a b", ["c", "d"]]
    assert sentences_of(tmp_path / "a.txt", "\ufeffa b\r\n\nc".encode()) == ["a b", "", "c"]
    assert sentences_of(tmp_path / "a", b"a  b\n", kind="words") == [["a", "b"]]
    pq.write_table(pa.table({"text": ["a b", "c"], "words": [["a"], ["b", "c"]]}), tmp_path / "a.parquet")
    assert list(SentenceFiles([tmp_path / "a.parquet"], column="text")) == ["a b", "c"]
    assert list(SentenceFiles([tmp_path / "a.parquet"], column="words")) == [["a"], ["b", "c"]]
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        assert sentences_of(tmp_path / f"a.fasta{suffix}", pack(b">x\nMK\n")) == [["M", "K"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\xff\xfe\n", "line 2 must be UTF-8"),
        ("a.txt.gz", gzip.compress(b"fine\n" * 100, mtime=0)[:-9], "must be a whole packed file"),
        ("a.txt.xz", b"no xz", "must be a whole packed file"),
        ("a.jsonl", b'{"text": "x"}\n{', "line 2 must be JSON"),
        ("a.jsonl", b'{"other": "x"}', "row 1 must have the column `text`, has: other"),
        ("a.jsonl", b'{"text": 1}', "row 1, `text` must be text or a list of words, was: 1"),
        ("a.conllu", b"no tabs\n", "line 1 must have columns that tabs separate"),
        ("a.fasta", b"MKV\n", "line 1 must come after a name"),
        ("a.parquet", b"PAR1", "must be a parquet file"),
    ],
)
def test_a_bad_line_is_told_and_what_was_finished_stays(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    code, _, err = run("embed", name, "out.npz", "--column", "text")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("elmo-hf: ")]
    assert f"{name}: {message}" in line
    assert not Path("out.npz").exists()


def test_text_of_characters_is_split_into_them(tmp_path: Path):
    (tmp_path / "smiles.txt").write_text("CC(=O)O\nC C\n")
    code, out, err = run("embed", tmp_path / "smiles.txt", tmp_path / "out.npz", "--split", "characters")
    assert code == 0, err
    assert "2 sentences, 9 words" in out
    assert [len(value) for value in vectors_in(tmp_path / "out.npz").values()] == [7, 2]


def test_what_is_not_installed_is_told_before_the_work(
    embedder: ElmoEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet needs pyarrow: pip install 'elmo-hf\[corpus\]'"):
        embed_sentences_to_file(embedder, TEXT, tmp_path / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_another_split_keeps_the_lexicon_of_a_model(tmp_path: Path):
    model = convert_checkpoint(MANY_LANGS / "char_and_word", tmp_path / "model", verify=False).folder
    (tmp_path / "text.txt").write_text("the dog\n")
    code, _, err = run("embed", tmp_path / "text.txt", tmp_path / "o.npz", "--model", model, "--split", "whitespace")
    assert code == 0, err
    (expected,) = load_embedder(model, device="cpu").embed([["the", "dog"]])
    np.testing.assert_allclose(vectors_in(tmp_path / "o.npz")[0], expected, rtol=0, atol=1e-6)


# --- documents -------------------------------------------------------------------------------------------------------


def test_windows_of_a_document_overlap_and_give_each_word_once(embedder: ElmoEmbedder, tmp_path: Path):
    words = [f"w{number}" for number in range(25)]
    embed_sentences_to_file(embedder, [words], tmp_path / "out.npz", window=10, overlap=4)
    found = vectors_in(tmp_path / "out.npz")[0]
    assert found.shape == (25, 12)
    bounds = [(0, 10), (6, 16), (12, 22), (18, 25)]
    each = [next(embedder.embed([words[start:end]])) for start, end in bounds]
    expected = np.concatenate([each[0][:8], each[1][2:8], each[2][2:8], each[3][2:]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_carried_state_is_that_of_the_model(embedder: ElmoEmbedder, tmp_path: Path, small_parts: None):
    sentences = [sentence for sentence in TEXT if sentence]
    embed_sentences_to_file(embedder, sentences, tmp_path / "out.npz", carry_state=True)
    states = None
    for index, sentence in enumerate(sentences):
        with torch.no_grad():
            outputs = embedder.model(**embedder.tokenizer([sentence], return_tensors="pt"), lstm_states=states)
        states = outputs.lstm_states
        given = vectors_in(tmp_path / "out.npz")[index]
        np.testing.assert_allclose(given, outputs.last_hidden_state[0].numpy(), rtol=0, atol=1e-6)


def test_shards_are_the_whole_together(embedder: ElmoEmbedder, text: Path, tmp_path: Path, small_parts: None):
    embed_files(embedder, [text], tmp_path / "whole.npz")
    whole, together = vectors_in(tmp_path / "whole.npz"), {}
    for number in range(3):
        embed_files(embedder, [text], tmp_path / f"{number}.npz", shard=(number, 3))
        part = vectors_in(tmp_path / f"{number}.npz")
        assert not together.keys() & part.keys()
        together |= part
    assert together.keys() == whole.keys()
    for index, vectors in whole.items():
        np.testing.assert_allclose(together[index], vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (3, 3)}, "`shard` must be a number from 0 to 2 of 3, was: 3"),
        ({"window": 0}, "`window` must be at least 1, was: 0"),
        ({"overlap": 3}, "`overlap` must be less than `window`, None, was: 3"),
        ({"window": 3, "overlap": 3}, "`overlap` must be less than `window`, 3, was: 3"),
        ({"window": 3, "carry_state": True}, "`carry_state` must be without `shard` and `window`"),
        ({"layers": [0, 9]}, "`layers` must be numbers from 0 to 2"),
        ({"pooling": "sum"}, "`pooling` must be mean, max or None"),
        ({"dtype": "int8"}, "`dtype` must be one of float32, float16, bfloat16, was: int8"),
    ],
)
def test_what_cannot_be_is_told(options: dict[str, Any], message: str, embedder: ElmoEmbedder, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        embed_sentences_to_file(embedder, TEXT, tmp_path / "out.npz", **options)
    assert list(tmp_path.iterdir()) == []


# --- stopped and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_finished_is_not_computed_again(
    suffix: str, embedder: ElmoEmbedder, text: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
):
    embed_files(embedder, [text], tmp_path / f"whole{suffix}")

    class Stop(Exception):
        pass

    def stopping(words: int) -> None:
        if (tmp_path / f"out{suffix}.parts" / "part-000001").exists():
            raise Stop

    with pytest.raises(Stop):
        embed_files(embedder, [text], tmp_path / f"out{suffix}", progress=stopping)
    assert not (tmp_path / f"out{suffix}").exists()
    # Other options, or another text, are told.
    with pytest.raises(ValueError, match="was begun with another `layers`"):
        embed_files(embedder, [text], tmp_path / f"out{suffix}", layers="top")
    with pytest.raises(ValueError, match="was begun with another text, from sentence 0 on"):
        embed_sentences_to_file(embedder, ["other", *TEXT[1:]], tmp_path / f"out{suffix}")
    done = embed_files(embedder, [text], tmp_path / f"out{suffix}")
    assert 0 < done.num_skipped < 40
    assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not (tmp_path / f"out{suffix}.parts").exists()


def _run_quietly(arguments: list[Any]) -> None:
    begin_in_a_fork()
    sys.exit(run(*arguments)[0])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_run_ends_with_the_same_bytes(suffix: str, text: Path, tmp_path: Path, small_parts: None):
    model, tokenizer = tiny_model(), ElmoTokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = ["embed", text, tmp_path / f"out{suffix}", "--model", tmp_path / "model", "--layers", "all"]
    start = time.perf_counter()
    assert run(*command)[0] == 0
    duration = time.perf_counter() - start
    expected = (tmp_path / f"out{suffix}").read_bytes()
    (tmp_path / f"out{suffix}").unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    draw = random.Random(suffix)
    for _ in range(int(os.environ.get("ELMO_HF_KILLS", "4"))):
        process = FORK.Process(target=_run_quietly, args=(command,))
        process.start()
        process.join(draw.uniform(0, 1.1 * duration))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        if (tmp_path / f"out{suffix}").exists():
            assert (tmp_path / f"out{suffix}").read_bytes() == expected
            (tmp_path / f"out{suffix}").unlink()
    assert run(*command)[0] == 0
    assert (tmp_path / f"out{suffix}").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, f"out{suffix}"])


def test_a_file_that_is_there_is_replaced_when_asked(text: Path, tmp_path: Path):
    (tmp_path / "out.npz").write_text("mine")
    code, _, err = run("embed", text, tmp_path / "out.npz")
    assert (code, "`--overwrite` replaces it" in err) == (1, True)
    assert (tmp_path / "out.npz").read_text() == "mine"
    assert run("embed", text, tmp_path / "out.npz", "--overwrite")[0] == 0
    assert zipfile.is_zipfile(tmp_path / "out.npz")


def test_the_command_tells_what_is_wrong(text: Path, tmp_path: Path):
    for arguments, message in (
        ([text], "`embed` takes INPUT... OUTPUT, got 1 path."),
        ([text, tmp_path / "out.txt"], "must end in .hdf5, .h5, .parquet, .npz, .safetensors, which tell the format."),
        ([text, tmp_path / "o.npz", "--shard", "0/2"], "`--shard` must be I/N, I from 1 to N, was: 0/2."),
        ([text, tmp_path / "o.npz", "--kind", "pdf"], "`--kind` must be one of text, words, conllu"),
        ([tmp_path / "none", tmp_path / "o.npz"], "must be a file, was missing."),
        ([text, tmp_path / "o.npz", "--device", "cuda:99"], "`--device` must be there, was: cuda:99"),
    ):
        code, _, err = run("embed", *arguments)
        assert code == 1
        assert message in err.splitlines()[-1]


# --- the class -------------------------------------------------------------------------------------------------------


def test_a_model_in_training_mode_gives_vectors_of_evaluation_and_stays_in_it(embedder: ElmoEmbedder):
    expected = list(embedder.embed(TEXT))
    embedder.model.train()
    for given, right in zip(embedder.embed(TEXT), expected, strict=True):
        np.testing.assert_array_equal(given, right)
    assert embedder.model.training


def test_a_head_is_embedded_by_its_bilm_and_a_language_model_has_no_mix():
    embedder = ElmoEmbedder(language_model(), word_tokenizer())
    assert next(embedder.embed(["muddy"], "average")).shape == (1, 2 * embedder.model.config.projection_dim)
    with pytest.raises(ValueError, match="`layers` must not be mix for a language model"):
        embedder.embed(["muddy"])


def test_a_text_is_no_list_of_sentences(embedder: ElmoEmbedder):
    with pytest.raises(TypeError, match=r"`sentences` must be a list of sentences, was one text: 'The bank'. Pass"):
        embedder.embed("The bank")
    with pytest.raises(TypeError, match="A sentence must be a list of words here"):
        embedder.embed_sentence("The bank")


def test_words_may_be_an_array(embedder: ElmoEmbedder):
    (given,), (expected,) = embedder.embed([np.array(["The", "bank"])]), embedder.embed([["The", "bank"]])
    np.testing.assert_array_equal(given, expected)


def test_a_word_that_is_cut_gives_a_warning_once(embedder: ElmoEmbedder, caplog: pytest.LogCaptureFixture):
    list(embedder.embed([["a" * 48]]))
    assert not caplog.records
    for _ in range(2):
        list(embedder.embed([["é" * 25], ["a" * 49]]))
    assert [record.getMessage() for record in caplog.records] == [
        "Words of more than 48 bytes are cut there, as in the training of ELMo."
    ]


def test_the_interface_of_allennlp(reference_dir: Path, tmp_path: Path):
    files = reference_dir / "options.json", reference_dir / "lm_weights.hdf5"
    for embedder in (
        ElmoEmbedder(*files),
        ElmoEmbedder(*files, -1),
        ElmoEmbedder(options_file=files[0], weight_file=files[1]),
    ):
        assert embedder.embed_sentence(["The", "bank"]).shape == (3, 2, 32)
    assert [vectors.shape for vectors in embedder.embed_batch([["A"], ["B", "C"]])] == [(3, 1, 32), (3, 2, 32)]
    assert [vectors.shape for vectors in embedder.embed_sentences([["A"]] * 3, batch_size=2)] == [(3, 1, 32)] * 3
    (tmp_path / "text").write_text("The bank\nYes\n")
    with (tmp_path / "text").open() as file:
        embedder.embed_file(file, tmp_path / "out.hdf5", "top", batch_size=1)
    assert {index: value.shape for index, value in vectors_in(tmp_path / "out.hdf5").items()} == {
        0: (2, 32),
        1: (1, 32),
    }
    embedder.embed_file(tmp_path / "text", tmp_path / "all.hdf5")
    assert vectors_in(tmp_path / "all.hdf5")[0].shape == (3, 2, 32)
    for wrong, message in (
        ((files[0],), "`weight_file` must be given"),
        ((files[0], ElmoTokenizer()), "`model` must be a model beside a tokenizer"),
        ((tiny_model(), files[1]), "takes a model and its tokenizer"),
    ):
        with pytest.raises(TypeError, match=message):
            ElmoEmbedder(*wrong)
    with pytest.raises(ValueError, match="`use_sentence_keys` must be False"):
        embedder.embed_file(tmp_path / "text", tmp_path / "o.hdf5", use_sentence_keys=True)


def test_what_says_where_a_folder_is_reaches_the_tokenizer(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path / "repository" / "below")
    ElmoTokenizer(word_splitter="whitespace").save_pretrained(tmp_path / "repository" / "below")
    embedder = ElmoEmbedder.from_pretrained(tmp_path / "repository", subfolder="below")
    assert embedder.tokenizer.word_splitter == "whitespace"


def test_an_accelerator_without_memory_gets_half_the_batch(embedder: ElmoEmbedder, monkeypatch: pytest.MonkeyPatch):
    expected = list(embedder.embed(TEXT))
    forward, sizes = embedder.model.forward, []

    def limited(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(embedder.model, "forward", limited)
    for given, right in zip(embedder.embed(TEXT), expected, strict=True):
        np.testing.assert_allclose(given, right, rtol=0, atol=1e-6)
    assert {1, 3} <= set(sizes)


def test_the_model_of_the_package_is_the_default(tmp_path: Path):
    model, tokenizer = load_default()
    (given,) = load_embedder(device="cpu").embed(["The river bank"])
    (expected,) = ElmoEmbedder(model, tokenizer).embed(["The river bank"])
    np.testing.assert_array_equal(given, expected)
