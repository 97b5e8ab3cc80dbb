"""
Checkpoints of other libraries, converted and held against what these libraries computed from them.

`tests/fixtures/formats` has small checkpoints that bilm-tf 0.1.post5 (TensorFlow 2.15.1), AllenNLP 2.10.1,
ELMoForManyLangs 0.0.4.post2 and DeepPavlov 0.3.0 wrote, with their layers, mixes and log-probabilities in
`expected.npz`.
"""

import gzip
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer, pipeline

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.checkpoints.conversion import Conversion, convert_checkpoint, export_checkpoint
from elmo_hf.checkpoints.crc32c import crc32c
from elmo_hf.checkpoints.formats import open_checkpoint
from elmo_hf.scoring import perplexity, score_sentences, substitutes
from tests.checkpoints.random_checkpoint import assert_same_bits, datasets_of, write_random_checkpoint
from tests.test_cli import run

FIXTURES = Path(__file__).parent.parent / "fixtures" / "formats"
TENSORFLOW, ALLENNLP, MANY_LANGS = FIXTURES / "tensorflow", FIXTURES / "allennlp", FIXTURES / "many_langs"
TF_VARIANTS = ["plain", "noproj", "onelayer", "noskip_tanh_clips", "word", "names_of_tensorflow_1_0"]
# float32 against float32, or against what wrote the file.
ROUNDING = 2e-6


def expected_of(folder: Path) -> Any:
    return np.load((folder if (folder / "expected.npz").exists() else TENSORFLOW / "plain") / "expected.npz")


def sentences_of(expected: Any, separator: str = " ") -> list[list[str]]:
    return [str(sentence).split(separator) for sentence in expected["sentences"]]


def assert_layers(folder: Path, expected: Any, sentences: list[list[str]], tolerance: float = ROUNDING) -> None:
    """Layers, mixes and, of ELMoForManyLangs, averages of a converted folder."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for index, words in enumerate(sentences):
        with torch.no_grad():
            outputs = model(
                **tokenizer([words], is_split_into_words=True, return_tensors="pt"), output_hidden_states=True
            )
        layers = torch.stack(outputs.hidden_states)[:, 0].numpy()
        np.testing.assert_allclose(layers, expected[f"layers_{index}"], rtol=0, atol=tolerance)
        for number, mix in enumerate(outputs.elmo_representations):
            for name in (f"representation{number}_{index}", f"elmo_{index}", f"average_{index}"):
                if name in expected:
                    np.testing.assert_allclose(mix[0].numpy(), expected[name], rtol=0, atol=tolerance)


def assert_log_probabilities(folder: Path, expected: Any, sentences: list[list[str]]) -> None:
    model, tokenizer = AutoModelForPreTraining.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for index, scores in enumerate(score_sentences(model, tokenizer, sentences)):
        np.testing.assert_allclose(scores.forward, expected[f"logprob_forward_{index}"], rtol=0, atol=ROUNDING)
        backward = [scores.backward[-1], *scores.backward[:-1]]
        np.testing.assert_allclose(backward, expected[f"logprob_backward_{index}"], rtol=0, atol=ROUNDING)
    assert perplexity(model, tokenizer, sentences).average == pytest.approx(
        (float(expected["perplexity_forward"]) + float(expected["perplexity_backward"])) / 2, rel=1e-6
    )


# --- checkpoints of TensorFlow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", TF_VARIANTS)
def test_a_checkpoint_of_tensorflow_becomes_its_language_model(variant: str, tmp_path: Path):
    folder = TENSORFLOW / variant
    made = convert_checkpoint(folder, tmp_path / "out")
    assert made.format == "TensorFlow checkpoint of bilm-tf"
    assert made.difference is not None
    assert made.difference < ROUNDING
    assert {"options.json", "vocab.txt", "model.ckpt-300.index"} <= made.sha256.keys()
    expected = expected_of(folder)
    sentences = sentences_of(expected)
    assert_layers(tmp_path / "out", expected, sentences)
    assert_log_probabilities(tmp_path / "out", expected, sentences)


@pytest.mark.parametrize("pack", ["zip", "tar.gz", "tar"])
def test_archives_are_read_in_place(pack: str, tmp_path: Path):
    folder, archive = TENSORFLOW / "plain", tmp_path / f"checkpoint.{pack}"
    files = [path for path in folder.iterdir() if path.name != "expected.npz"]
    if pack == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
            for path in files:
                new.write(path, f"below/{path.name}")
    else:
        with tarfile.open(archive, "w:gz" if pack == "tar.gz" else "w") as new:
            for path in files:
                new.add(path, f"./{path.name}")
    before = sorted(path.name for path in tmp_path.iterdir())
    made = convert_checkpoint(archive, tmp_path / "out")
    assert list(made.sha256) == [archive.name]
    plain = convert_checkpoint(folder, tmp_path / "plain", verify=False).folder
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out", "plain"])


def test_of_several_checkpoints_the_named_one_is_read(tmp_path: Path):
    folder = tmp_path / "folder"
    shutil.copytree(TENSORFLOW / "plain", folder)
    for path in list(folder.glob("model.ckpt-300.*")):
        shutil.copy(path, folder / path.name.replace("300", "200"))
    assert open_checkpoint([folder]).files[1] == "model.ckpt-300.index"
    assert open_checkpoint([folder], name="model.ckpt-200").files[1] == "model.ckpt-200.index"
    (folder / "checkpoint").unlink()
    with pytest.raises(ValueError, match=r"holds 2 biLMs, choose one by `name`: model\.ckpt-200, model\.ckpt-300"):
        open_checkpoint([folder])
    with pytest.raises(ValueError, match=r"`name` must be one of model\.ckpt-200, .* was: other"):
        open_checkpoint([folder], name="other")


def test_a_model_of_tensorflow_without_its_words_has_no_softmax(tmp_path: Path):
    shutil.copytree(TENSORFLOW / "plain", tmp_path / "folder")
    (tmp_path / "folder" / "vocab.txt").unlink()
    made = convert_checkpoint(tmp_path / "folder", tmp_path / "out")
    assert "The softmax of its language model was left out" in made.notes[0]
    assert made.notes[0] in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), ElmoModel)


def test_a_packed_vocabulary_will_do(tmp_path: Path):
    shutil.copytree(TENSORFLOW / "plain", tmp_path / "folder")
    words = (tmp_path / "folder" / "vocab.txt").read_bytes()
    (tmp_path / "folder" / "vocab.txt").unlink()
    (tmp_path / "folder" / "vocab.txt.gz").write_bytes(gzip.compress(words))
    assert open_checkpoint([tmp_path / "folder"]).words == words.decode().split()


def test_training_goes_on_from_a_checkpoint_of_tensorflow(tmp_path: Path):
    convert_checkpoint(TENSORFLOW / "noskip_tanh_clips", tmp_path / "model", verify=False)
    expected = expected_of(TENSORFLOW / "noskip_tanh_clips")
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words) for words in sentences_of(expected) * 20))
    command = ["pretrain", tmp_path / "model", "--train", tmp_path / "text.txt", "--output", tmp_path / "out"]
    code, out, err = run(*command, "--pretokenized", "--rows", "2", "--max-steps", "2", "--learning-rate", "0")
    assert code == 0, err
    assert "57 to predict" in out
    before, after = (ElmoForPreTraining.from_pretrained(tmp_path / name).state_dict() for name in ("model", "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    data = np.random.default_rng(0).integers(0, 256, 5_000, dtype=np.uint8)
    table = [0] * 256
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
        table[value] = crc
    for length in (0, 1, 1023, 1024, 1025, 4096, 5000):
        crc = 0xFFFFFFFF
        for byte in data[:length].tolist():
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        assert crc32c(data[:length]) == crc ^ 0xFFFFFFFF


def test_a_changed_number_in_a_shard_is_noticed(tmp_path: Path):
    shutil.copytree(TENSORFLOW / "plain", tmp_path / "folder")
    shard = tmp_path / "folder" / "model.ckpt-300.data-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="`CNN/W_cnn_0` must be readable, was damaged: its checksum is wrong"):
        convert_checkpoint(tmp_path / "folder", tmp_path / "out")


# --- TF-Hub ----------------------------------------------------------------------------------------------------------


def test_a_module_of_tf_hub_brings_its_mix(tmp_path: Path):
    made = convert_checkpoint(FIXTURES / "tfhub" / "elmo_ru-tiny.tar.gz", tmp_path / "out")
    expected = expected_of(FIXTURES / "tfhub")
    assert_layers(tmp_path / "out", expected, sentences_of(expected))
    assert "these are those of every model of AI2" in made.notes[0]
    weights = AutoModel.from_pretrained(tmp_path / "out").scalar_mixes[0]
    np.testing.assert_array_equal(weights.scalar_parameters.detach().numpy(), expected["scalar_weights"])


# --- AllenNLP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["bcn_two_mixes", "tagger_options_inside", "state_dict_two_mixes"])
def test_an_archive_of_allennlp_brings_its_mixes(variant: str, tmp_path: Path):
    folder = ALLENNLP / variant
    (file,) = [path for path in folder.iterdir() if path.suffix in (".gz", ".th")]
    made = convert_checkpoint(file, tmp_path / "out")
    expected = expected_of(folder)
    assert made.config.num_output_representations == (1 if variant == "tagger_options_inside" else 2)
    assert bool(made.notes) == (variant != "tagger_options_inside")
    assert_layers(tmp_path / "out", expected, sentences_of(expected))


def test_of_several_modules_one_is_chosen(tmp_path: Path):
    state = torch.load(ALLENNLP / "state_dict_two_mixes" / "elmo_state_dict.th", weights_only=True)
    both = {f"_elmo.{name}": value for name, value in state.items()}
    both |= {f"text_field_embedder.token_embedder_x._elmo.{name}": 2 * value for name, value in state.items()}
    torch.save(both, tmp_path / "weights.th")
    names = "_elmo, text_field_embedder.token_embedder_x._elmo"
    with pytest.raises(ValueError, match=f"holds 2 biLMs, choose one by `name`: {names}"):
        open_checkpoint([tmp_path])
    name = "text_field_embedder.token_embedder_x._elmo"
    given = open_checkpoint([tmp_path], name=name).read()
    assert torch.equal(
        given["character_encoder.projection.bias"], 2 * state["_elmo_lstm._token_embedder._projection.bias"]
    )


def test_layer_norm_of_an_archive_is_kept(tmp_path: Path):
    with tarfile.open(ALLENNLP / "bcn_two_mixes" / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "folder", filter="data")
    file = tmp_path / "folder" / "config.json"
    file.write_text(file.read_text().replace('"do_layer_norm": false', '"do_layer_norm": true'))
    made = convert_checkpoint(tmp_path / "folder", tmp_path / "out")
    assert made.config.do_layer_norm
    assert made.config.dropout == 0.2


def test_a_pickle_that_would_execute_something_is_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"_token_embedder._char_embedding_weights": Evil()}, tmp_path / "weights.th")
    with pytest.raises(ValueError, match="it is no pickle of tensors alone"):
        convert_checkpoint(tmp_path / "weights.th", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.th"]


# --- ELMoForManyLangs ------------------------------------------------------------------------------------------------


def many_langs(folder: Path, without: str | None = None) -> Path:
    shutil.copytree(MANY_LANGS / "char_and_word", folder)
    (folder / "expected.npz").unlink()
    if without is not None:
        (folder / without).unlink()
    return folder


@pytest.mark.parametrize("without", [None, "cnn_50_100_512_4096_sample.json", "config.json"])
def test_a_model_for_many_langs_gives_what_the_original_gives(without: str | None, tmp_path: Path):
    made = convert_checkpoint(many_langs(tmp_path / "model", without), tmp_path / "out")
    assert any("of all released models" in note for note in made.notes) == (without is not None)
    expected = expected_of(MANY_LANGS / "char_and_word")
    assert_layers(tmp_path / "out", expected, sentences_of(expected, "\t"), 1e-5)


def test_a_tokenizer_of_many_langs_spells_words_and_characters(tmp_path: Path):
    convert_checkpoint(many_langs(tmp_path / "model"), tmp_path / "out", verify=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    words = dict(line.split("\t") for line in (tmp_path / "model" / "word.dic").read_text("utf-8").splitlines())
    row = tokenizer(["the dog"], is_split_into_words=False)["input_ids"][0][0]
    assert len(row) == 51
    assert row[0] == int(words["the"]) + 1
    assert tokenizer.decode(tokenizer("the dog saw")["input_ids"]) == "the dog saw"
    # An unknown word is told by its characters, a long one is cut before it is looked up.
    assert tokenizer.convert_ids_to_tokens(tokenizer("thedog")["input_ids"]) == ["thedog"]
    assert tokenizer.convert_tokens_to_ids("t" * 60) == tokenizer.convert_tokens_to_ids("t" * 48)
    pair = tokenizer("the dog", "the cat")
    assert pair.tokens() == ["the", "dog", "<eos>", "<bos>", "the", "cat"]
    assert tokenizer.get_special_tokens_mask(pair["input_ids"], already_has_special_tokens=True) == [0, 0, 1, 1, 0, 0]
    tokenizer.save_pretrained(tmp_path / "again")
    again = ElmoTokenizer.from_pretrained(tmp_path / "again")
    assert again("the dog €")["input_ids"] == tokenizer("the dog €")["input_ids"]


def test_a_model_of_many_langs_is_a_model_like_others(tmp_path: Path):
    convert_checkpoint(many_langs(tmp_path / "model"), tmp_path / "out", verify=False)
    pipe = pipeline("feature-extraction", model=str(tmp_path / "out"))
    assert np.array(pipe("the dog saw the cat")).shape == (1, 5, 16)
    model = ElmoModel.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`input_ids` must have shape \(batch, words, 51\)"):
        model(torch.ones(1, 2, 50, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`input_ids` must be from 0 to 62"):
        model(torch.full((1, 2, 51), 65))
    with pytest.raises(ValueError, match="`inputs_embeds` must be None in a model with a table of words"):
        model(inputs_embeds=torch.zeros(1, 2, 50, 5))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\tb\tc", "line 1 must be a token, a tab and a number"),
        ("a\t-1", "line 1 must have a number from 0"),
        ("a\t9999", "char.dic must have numbers below the 67 rows of its table, has 9999"),
    ],
)
def test_a_damaged_lexicon_is_told(line: str, message: str, tmp_path: Path):
    file = many_langs(tmp_path / "model") / "char.dic"
    file.write_text(f"{line}\n{file.read_text('utf-8')}".replace("\na\t", "\nb\t"), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "model", tmp_path / "out")


# --- hdf5 ------------------------------------------------------------------------------------------------------------


def edited(folder: Path, edit: Callable[[h5py.File, dict], None], **sizes: Any) -> Path:
    options_file, weight_file = write_random_checkpoint(folder, **sizes)
    options = json.loads(options_file.read_text())
    with h5py.File(weight_file, "r+") as file:
        edit(file, options)
    options_file.write_text(json.dumps(options))
    return folder


def without_projections(file: h5py.File, options: dict) -> None:
    # As many cells as outputs.
    options["lstm"]["dim"] = 5
    for direction in range(2):
        for layer in range(2):
            lstm = file[f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"]
            del lstm["W_P_0"]
            for name in ("W_0", "B"):
                values = lstm[name][()]
                del lstm[name]
                lstm[name] = values[..., :20]


def without_the_projection_of_filters(file: h5py.File, options: dict) -> None:
    del file["CNN_proj"]


def one_layer_without_a_number(file: h5py.File, options: dict) -> None:
    for direction in range(2):
        group = file[f"RNN_{direction}/RNN"]
        group.copy("MultiRNNCell/Cell0/LSTMCell", "LSTMCell")
        del group["MultiRNNCell"]


def of_words(file: h5py.File, options: dict) -> None:
    for name in ("char_embed", "CNN", "CNN_high_0", "CNN_proj"):
        del file[name]
    del options["char_cnn"]
    options["n_tokens_vocab"] = len(WORDS)
    file["embedding"] = np.random.default_rng(1).normal(size=(len(WORDS), 5)).astype(np.float32)


WORDS = ["</S>", "the", "<S>", "bank", "<UNK>", "Größe", "東京"]
HDF5_VARIANTS: dict[str, tuple[Callable[[h5py.File, dict], None], dict[str, Any]]] = {
    "no W_P_0": (without_projections, {}),
    "no CNN_proj": (without_the_projection_of_filters, {"filters": [[1, 2], [2, 3]]}),
    "one layer": (one_layer_without_a_number, {"n_layers": 1}),
    "words": (of_words, {}),
}


@pytest.mark.parametrize("variant", HDF5_VARIANTS)
def test_every_kind_of_hdf5_is_read_and_written(variant: str, tmp_path: Path):
    edit, sizes = HDF5_VARIANTS[variant]
    folder = edited(tmp_path / "given", edit, **sizes)
    if variant == "words":
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    made = convert_checkpoint(folder, tmp_path / "out")
    assert made.difference is not None
    assert made.difference < ROUNDING
    again = tmp_path / "again"
    words = {"vocab_file": again / "vocab.txt"} if variant == "words" else {}
    export_checkpoint(tmp_path / "out", again / "options.json", again / "weights.hdf5", **words)
    if variant == "one layer":
        # With a number, AllenNLP reads it, and bilm-tf as well.
        given, expected = (datasets_of(place / "weights.hdf5") for place in (again, folder))
        renamed = {name.replace("MultiRNNCell/Cell0/", ""): values for name, values in given.items()}
        assert renamed.keys() == expected.keys()
        assert all(np.array_equal(renamed[name], expected[name]) for name in expected)
    else:
        assert_same_bits(again / "weights.hdf5", folder / "weights.hdf5")
    second = convert_checkpoint(again, tmp_path / "second")
    weights = [(place / "model.safetensors").read_bytes() for place in (made.folder, second.folder)]
    assert weights[0] == weights[1]


def test_a_projection_that_some_layers_lack_is_missing(tmp_path: Path):
    folder = edited(tmp_path / "given", without_projections)
    with h5py.File(folder / "weights.hdf5", "r+") as file:
        file["RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"] = np.eye(5, dtype=np.float32)
    with pytest.raises(ValueError, match=r"`RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell/W_P_0` must have .* was missing"):
        convert_checkpoint(folder, tmp_path / "out")


def test_a_bilm_of_words_needs_its_vocabulary(tmp_path: Path):
    folder = edited(tmp_path / "given", of_words)
    with pytest.raises(ValueError, match=r"needs its vocabulary, vocab.txt: `elmo-hf convert` takes the folder"):
        convert_checkpoint(folder, tmp_path / "out")


@pytest.fixture
def with_softmax(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A checkpoint as AI2 published it, beside its softmax and vocabulary, with other names each."""
    folder = tmp_path / "given"
    write_random_checkpoint(folder)
    (folder / "options.json").rename(folder / "elmo_options.json")
    (folder / "weights.hdf5").rename(folder / "elmo_weights.hdf5")
    random = np.random.default_rng(2)
    weight, bias = (random.normal(size=shape).astype(np.float32) for shape in ((len(WORDS), 5), len(WORDS)))
    with h5py.File(folder / "elmo_softmax_weights.hdf5", "w") as file:
        file["softmax/W"], file["softmax/b"] = weight, bias
    (folder / "vocab-2016-09-10.txt").write_text("\n".join([*WORDS[:3], "!!!MAXTERMID", *WORDS[3:]]) + "\n", "utf-8")
    return folder, weight, bias


@pytest.mark.parametrize("given", ["folder", "files", "inside"])
def test_a_softmax_beside_the_weights_makes_a_language_model(
    given: str, with_softmax: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
):
    folder, weight, bias = with_softmax
    if given == "inside":
        with h5py.File(folder / "elmo_weights.hdf5", "r+") as file:
            file["softmax/W"], file["softmax/b"] = weight, bias
        (folder / "elmo_softmax_weights.hdf5").unlink()
    if given == "files":
        made: Conversion = convert_checkpoint(
            folder / "elmo_options.json", folder / "elmo_weights.hdf5", tmp_path / "out",
            softmax_file=folder / "elmo_softmax_weights.hdf5", vocab_file=folder / "vocab-2016-09-10.txt",
        )  # fmt: skip
    else:
        made = convert_checkpoint(folder, tmp_path / "out")
    assert made.difference is not None
    assert made.difference < ROUNDING
    model, tokenizer = ElmoForPreTraining.from_pretrained(tmp_path / "out"), ElmoTokenizer.from_pretrained(made.folder)
    assert tokenizer.word_vocabulary == ["<S>", "</S>", "<UNK>", "the", "bank", "Größe", "東京"]
    order = [2, 0, 4, 1, 3, 5, 6]
    np.testing.assert_array_equal(model.softmax.weight.detach().numpy(), weight[order])
    np.testing.assert_array_equal(model.softmax.bias.detach().numpy(), bias[order])
    assert len(substitutes(model, tokenizer, ["the", "bank"], 1, 3)) == 3
    # And back.
    places = [tmp_path / "again" / name for name in ("o_options.json", "w.hdf5", "softmax.hdf5", "vocab.txt")]
    export_checkpoint(made.folder, *places[:2], softmax_file=places[2], vocab_file=places[3])
    second = convert_checkpoint(*places[:2], tmp_path / "second", softmax_file=places[2], vocab_file=places[3])
    weights = [(place / "model.safetensors").read_bytes() for place in (made.folder, second.folder)]
    assert weights[0] == weights[1]


def test_a_word_that_is_there_twice_keeps_both_rows(with_softmax: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path):
    folder, weight, _ = with_softmax
    (folder / "vocab-2016-09-10.txt").write_text("</S>\nthe\n<S>\nthe \n<UNK>\nb\nc", "utf-8")
    convert_checkpoint(folder, tmp_path / "out")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.word_vocabulary == ["<S>", "</S>", "<UNK>", "the (row 1)", "the", "b", "c"]
    model = ElmoForPreTraining.from_pretrained(tmp_path / "out")
    label = int(tokenizer.words_to_labels(["the"])[0])
    np.testing.assert_array_equal(model.softmax.weight[label].detach().numpy(), weight[3])


def test_a_vocabulary_of_another_size_is_told(with_softmax: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path):
    (with_softmax[0] / "vocab-2016-09-10.txt").write_text("<S>\n</S>\n<UNK>\n", "utf-8")
    with pytest.raises(ValueError, match=r"`softmax/W` must have shape \(3, 5\) by the options, was: \(7, 5\)"):
        convert_checkpoint(with_softmax[0], tmp_path / "out")


def test_a_zip_as_nlpl_has_them(tmp_path: Path):
    options_file, weight_file = write_random_checkpoint(tmp_path / "given")
    with zipfile.ZipFile(tmp_path / "200.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in (("model.hdf5", weight_file), ("options.json", options_file)):
            archive.write(path, name)
        archive.writestr("meta.json", "{}")
        archive.writestr("README", "A model.")
        archive.writestr("vocab.txt", "the\n<S>\n</S>\n<UNK>\n")
    code, out, err = run("convert", tmp_path / "200.zip", tmp_path / "out")
    assert code == 0, err
    assert "200.zip" in out
    convert_checkpoint(options_file, weight_file, tmp_path / "plain", verify=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "plain")]
    assert weights[0] == weights[1]


# --- what is none ----------------------------------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_told(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no checkpoint")
    for path, there in ((tmp_path / "empty", "no files"), (tmp_path / "text.txt", "text.txt")):
        with pytest.raises(ValueError, match=rf"must hold a checkpoint of a biLM: .* has .*{there}"):
            open_checkpoint([path])
    with pytest.raises(FileNotFoundError, match="must be a file or a folder, was missing"):
        open_checkpoint([tmp_path / "none"])
    with pytest.raises(ValueError, match="`format` must be one of tensorflow, tfhub, hdf5, allennlp, many-langs"):
        open_checkpoint([tmp_path], format="onnx")
    with pytest.raises(ValueError, match="must hold a checkpoint of the format tfhub"):
        open_checkpoint([TENSORFLOW / "plain"], format="tfhub")
    with pytest.raises(TypeError, match="takes a folder or an archive, or options and weights, and the folder"):
        convert_checkpoint(tmp_path)
    code, _, err = run("convert", tmp_path)
    assert (code, err) == (1, "elmo-hf: `convert` takes CHECKPOINT OUT_DIR or OPTIONS WEIGHTS OUT_DIR, got 1 paths.\n")


def test_a_folder_that_holds_two_formats_is_read_as_what_holds_more(tmp_path: Path):
    shutil.copytree(TENSORFLOW / "plain", tmp_path / "folder")
    export_checkpoint(
        convert_checkpoint(tmp_path / "folder", tmp_path / "out", verify=False).folder,
        tmp_path / "spare.json",
        tmp_path / "folder" / "weights.hdf5",
    )
    assert open_checkpoint([tmp_path / "folder"]).title == "TensorFlow checkpoint of bilm-tf"
    assert open_checkpoint([tmp_path / "folder"], format="hdf5").title == "hdf5 of bilm-tf or AllenNLP"
