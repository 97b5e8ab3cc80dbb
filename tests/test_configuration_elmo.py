"""The configuration: defaults, round trips, and one clear error for each impossible value."""

import copy
import inspect
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from elmo_hf import ElmoConfig
from tests.tiny import tiny_config


def test_the_defaults_are_the_original_english_model():
    config = ElmoConfig()
    assert (config.cell_size, config.projection_dim, config.num_hidden_layers) == (4096, 512, 2)
    assert config.num_filters == 2048
    assert len(config.char_cnn_filters) == 7
    assert (config.num_highway_layers, config.char_cnn_activation) == (2, "relu")
    assert (config.cell_clip, config.proj_clip) == (3.0, 3.0)
    assert (config.vocab_size, config.char_embedding_dim, config.max_characters_per_token) == (262, 16, 50)
    assert config.hidden_size == 1024


WRONG_VALUES = [
    ({"vocab_size": 0}, ValueError, "`vocab_size` must be at least 1, was: 0."),
    ({"vocab_size": 262.0}, TypeError, "`vocab_size` must be a whole number, was: 262.0."),
    ({"vocab_size": True}, TypeError, "`vocab_size` must be a whole number, was: True."),
    ({"char_embedding_dim": -4}, ValueError, "`char_embedding_dim` must be at least 1, was: -4."),
    ({"char_embedding_dim": "16"}, TypeError, "`char_embedding_dim` must be a whole number, was: '16'."),
    ({"max_characters_per_token": 2}, ValueError, "`max_characters_per_token` must be at least 3, was: 2."),
    ({"char_cnn_filters": []}, TypeError, "`char_cnn_filters` must be a non-empty list of [width, number], was: []."),
    (
        {"char_cnn_filters": "33"},
        TypeError,
        "`char_cnn_filters` must be a non-empty list of [width, number], was: '33'.",
    ),
    ({"char_cnn_filters": 7}, TypeError, "`char_cnn_filters` must be a non-empty list of [width, number], was: 7."),
    ({"char_cnn_filters": [[1, 4], [3]]}, TypeError, "`char_cnn_filters[1]` must be [width, number], was: [3]."),
    ({"char_cnn_filters": ["14"]}, TypeError, "`char_cnn_filters[0]` must be [width, number], was: '14'."),
    ({"char_cnn_filters": [[0, 4]]}, ValueError, "`char_cnn_filters[0] width` must be at least 1, was: 0."),
    ({"char_cnn_filters": [[1, 0]]}, ValueError, "`char_cnn_filters[0] number` must be at least 1, was: 0."),
    (
        {"char_cnn_filters": [[51, 4]]},
        ValueError,
        "`char_cnn_filters[0]` must not be wider than the 50 characters of a word, was: 51.",
    ),
    ({"char_cnn_activation": "gelu"}, ValueError, "`char_cnn_activation` must be relu or tanh, was: 'gelu'."),
    ({"num_highway_layers": -1}, ValueError, "`num_highway_layers` must be at least 0, was: -1."),
    ({"projection_dim": 0}, ValueError, "`projection_dim` must be at least 1, was: 0."),
    ({"hidden_size": 7}, ValueError, "`hidden_size` must be even (two directions side by side), was: 7."),
    ({"hidden_size": 0}, ValueError, "`hidden_size` must be at least 1, was: 0."),
    ({"cell_size": None}, TypeError, "`cell_size` must be a whole number, was: None."),
    ({"num_hidden_layers": 0}, ValueError, "`num_hidden_layers` must be at least 1, was: 0."),
    ({"cell_clip": 0}, ValueError, "`cell_clip` must be positive or None, was: 0."),
    ({"proj_clip": -3.0}, ValueError, "`proj_clip` must be positive or None, was: -3.0."),
    ({"proj_clip": math.nan}, ValueError, "`proj_clip` must be finite, was: nan."),
    ({"cell_clip": "3"}, TypeError, "`cell_clip` must be a number, was: '3'."),
    ({"use_skip_connections": 1}, TypeError, "`use_skip_connections` must be true or false, was: 1."),
    ({"num_output_representations": 0}, ValueError, "`num_output_representations` must be at least 1, was: 0."),
    ({"do_layer_norm": "no"}, TypeError, "`do_layer_norm` must be true or false, was: 'no'."),
    ({"dropout": 1.0}, ValueError, "`dropout` must be at least 0 and less than 1, was: 1.0."),
    ({"dropout": -0.1}, ValueError, "`dropout` must be at least 0 and less than 1, was: -0.1."),
    ({"dropout": math.inf}, ValueError, "`dropout` must be finite, was: inf."),
    ({"keep_sentence_boundaries": None}, TypeError, "`keep_sentence_boundaries` must be true or false, was: None."),
    (
        {"scalar_mix_parameters": [0.0, 1.0]},
        ValueError,
        "`scalar_mix_parameters` must be a list of 3 numbers, one per layer (word vectors and each LSTM layer), "
        "was: [0.0, 1.0].",
    ),
    ({"scalar_mix_parameters": [0, 0, math.inf]}, ValueError, "`scalar_mix_parameters` must be finite, was: inf."),
    ({"scalar_mix_parameters": [0, 0, "1"]}, TypeError, "`scalar_mix_parameters` must be a number, was: '1'."),
    ({"initializer_factor": -1.0}, ValueError, "`initializer_factor` must not be negative, was: -1.0."),
    ({"batch_invariant": 1}, TypeError, "`batch_invariant` must be true or false, was: 1."),
    ({"word_cache_size": -1}, ValueError, "`word_cache_size` must be at least 0, was: -1."),
    ({"head_lstm_size": 0}, ValueError, "`head_lstm_size` must be at least 1, was: 0."),
    ({"classifier_dropout": 1.0}, ValueError, "`classifier_dropout` must be at least 0 and less than 1, was: 1.0."),
    ({"word_vocab_size": 3}, ValueError, "`word_vocab_size` must be at least 4, was: 3."),
    ({"num_sampled_words": 0}, ValueError, "`num_sampled_words` must be at least 1, was: 0."),
    ({"bilm_dropout": 1.0}, ValueError, "`bilm_dropout` must be at least 0 and less than 1, was: 1.0."),
    ({"fixed_initial_state": 1}, TypeError, "`fixed_initial_state` must be true or false, was: 1."),
    ({"sentence_pooling": "sum"}, ValueError, "`sentence_pooling` must be mean or max or last, was: 'sum'."),
]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    WRONG_VALUES,
    ids=[f"{name}={v}" for case in WRONG_VALUES for name, v in case[0].items()],
)
def test_an_impossible_value_names_the_field_the_expectation_and_itself(
    values: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error) as raised:
        ElmoConfig(**values)
    assert str(raised.value) == message


NOT_DEFAULT: dict[str, Any] = {
    "vocab_size": 261,
    "char_embedding_dim": 4,
    "char_cnn_filters": [[1, 4], [3, 5]],
    "char_cnn_activation": "tanh",
    "num_highway_layers": 0,
    "max_characters_per_token": 20,
    "word_embedding_dim": 2,
    "word_lexicon_size": 9,
    "boundary_ids": [[1, 7, 8, 9], [2, 7, 10, 9]],
    "fill_character": 11,
    "projection_dim": 6,
    "cell_size": 10,
    "num_hidden_layers": 3,
    "cell_clip": None,
    "proj_clip": 1.5,
    "use_skip_connections": False,
    "num_output_representations": 2,
    "do_layer_norm": True,
    "dropout": 0.25,
    "keep_sentence_boundaries": True,
    "scalar_mix_parameters": [-9e10, 1.0, 0.0, 0.5],
    "initializer_factor": 0.5,
    "word_cache_size": 7,
    "head_lstm_size": 5,
    "classifier_dropout": 0.125,
    "sentence_pooling": "last",
    "word_vocab_size": 30,
    "num_sampled_words": 9,
    "bilm_dropout": 0.25,
    "fixed_initial_state": True,
}


def test_no_value_is_forgotten_below():
    assert set(NOT_DEFAULT) == set(inspect.signature(ElmoConfig).parameters) - {
        "batch_invariant",  # not with these sizes
        "hidden_size",
        "pad_token_id",
        "kwargs",
    }


def test_every_value_comes_back_from_a_file(tmp_path: Path):
    defaults = ElmoConfig()
    assert [name for name, value in NOT_DEFAULT.items() if getattr(defaults, name) == value] == []
    config = ElmoConfig(**NOT_DEFAULT)
    config.save_pretrained(tmp_path)
    for loaded in (ElmoConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ElmoConfig
        assert {name: getattr(loaded, name) for name in NOT_DEFAULT} == NOT_DEFAULT
        assert loaded.hidden_size == 12
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}


def test_the_file_says_the_sizes_and_where_the_classes_are(tmp_path: Path):
    tiny_config(scalar_mix_parameters=[0, 1, 2]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"] == "elmo"
    assert content["char_cnn_filters"] == [[1, 4], [3, 5]]
    assert content["scalar_mix_parameters"] == [0.0, 1.0, 2.0]
    assert content["auto_map"]["AutoConfig"] == "configuration_elmo.ElmoConfig"
    assert content["auto_map"]["AutoModel"] == "modeling_elmo.ElmoModel"


def test_a_value_may_be_overridden_while_loading(tmp_path: Path):
    tiny_config().save_pretrained(tmp_path)
    config = ElmoConfig.from_pretrained(tmp_path, keep_sentence_boundaries=True, dropout=0.125)
    assert (config.keep_sentence_boundaries, config.dropout, config.cell_size) == (True, 0.125, 10)
    config, unused = AutoConfig.from_pretrained(tmp_path, cell_size=4, other=1, return_unused_kwargs=True)
    assert (config.cell_size, unused) == (4, {"other": 1})


def test_a_value_is_checked_wherever_it_comes_from(tmp_path: Path):
    tiny_config().save_pretrained(tmp_path)
    for load in (ElmoConfig.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match="`scalar_mix_parameters` must be a list of 3 numbers"):
            load(tmp_path, scalar_mix_parameters=[1.0])
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "cell_size": "large"}))
    with pytest.raises(TypeError, match="`cell_size` must be a whole number, was: 'large'"):
        ElmoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", NOT_DEFAULT)
def test_configurations_are_equal_when_every_value_is(name: str):
    values = {name: value for name, value in NOT_DEFAULT.items() if name != "scalar_mix_parameters"}
    other = copy.deepcopy(NOT_DEFAULT)
    if (
        name.startswith("word_")
        and name.endswith(("_dim", "_size"))
        and name not in ("word_cache_size", "word_vocab_size")
    ):
        # The two go together.
        other[name] += 1
    else:
        del other[name]
    if name == "num_hidden_layers":
        del other["scalar_mix_parameters"]
    assert ElmoConfig(**NOT_DEFAULT) == ElmoConfig(**NOT_DEFAULT)
    assert ElmoConfig(**values) == ElmoConfig(**values)
    assert ElmoConfig(**NOT_DEFAULT) != ElmoConfig(**other)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_is_equal_and_independent(duplicate: Any):
    config = tiny_config()
    twin = duplicate(config)
    assert twin == config
    twin.auto_map["AutoModel"] = "other.Model"
    twin.char_cnn_filters[0][1] = 99
    assert config == tiny_config()


def test_two_configurations_share_nothing_that_can_be_changed():
    first, second = ElmoConfig(), ElmoConfig()
    first.auto_map["AutoModel"] = "other.Model"
    first.char_cnn_filters[0][1] = 99
    assert second == ElmoConfig()


def test_an_auto_map_of_the_caller_is_completed_and_not_written_into():
    given = {"AutoModelForTokenClassification": "mine.Model"}
    config = ElmoConfig(auto_map=given)
    assert given == {"AutoModelForTokenClassification": "mine.Model"}
    assert config.auto_map["AutoModelForTokenClassification"] == "mine.Model"
    assert config.auto_map["AutoModel"] == "modeling_elmo.ElmoModel"


def test_hidden_size_and_projection_dim_are_one_size():
    assert ElmoConfig(hidden_size=32).projection_dim == 16
    config = ElmoConfig(projection_dim=8)
    config.hidden_size = 32
    assert (config.projection_dim, config.hidden_size) == (16, 32)


def test_tuples_become_lists_as_they_will_be_after_a_file():
    config = ElmoConfig(char_cnn_filters=((1, 4), (2, 8)), num_hidden_layers=1, scalar_mix_parameters=(1, 2))
    content = json.loads(config.to_json_string())
    assert content["char_cnn_filters"] == [[1, 4], [2, 8]]
    assert content["scalar_mix_parameters"] == [1.0, 2.0]
