"""
The biLM a second time, deliberately plain: numpy in float64, one word and one time step after the other, straight from
the datasets of the hdf5 file. Conversion holds its result against this. It shares no code with the model, the
tokenizer or the reader of weights, because a mistake that both made would go unseen.
"""

import json
import os
from collections.abc import Callable

import h5py
import numpy as np


def reference_layers(
    options_file: str | os.PathLike[str], weight_file: str | os.PathLike[str], sentences: list[list[str]]
) -> list[np.ndarray]:
    """
    Computes all layers of a biLM for a few sentences, without state from one to the next. Slow, and meant to be.

    Args:
        options_file (`str` or `os.PathLike`): the options.json.
        weight_file (`str` or `os.PathLike`): the hdf5 file that belongs to it. Both must have been checked.
        sentences (`list[list[str]]`): sentences of words.

    Returns:
        `list[np.ndarray]`: for each sentence a float64 array (LSTM layers + 1, words, 2 * projection_dim), the word
        vectors twice in front. The sentence boundaries are computed and left out.
    """
    with open(options_file, encoding="utf-8") as stream:
        options = json.load(stream)
    with h5py.File(weight_file, "r") as file:

        def dataset(name: str) -> np.ndarray:
            return file[name][()].astype(np.float64)

        boundaries = [[258, 256, 259], [258, 257, 259]]
        characters = {word: _characters(word) for words in sentences for word in words}
        vectors = _word_vectors(options["char_cnn"], dataset, [*boundaries, *characters.values()])
        vector_of = dict(zip(characters, vectors[2:], strict=True))
        inputs = [np.stack([vectors[0], *[vector_of[word] for word in words], vectors[1]]) for words in sentences]

        layers = [[np.concatenate([x, x], axis=1)] for x in inputs]
        # Reading a sentence from its end is the backward direction; its outputs are turned round again below.
        forward, backward = inputs, [x[::-1] for x in inputs]
        for index in range(options["lstm"].get("n_layers", 1)):
            forward = _lstm_layer(options["lstm"], dataset, f"RNN_0/RNN/MultiRNNCell/Cell{index}/", forward, index)
            backward = _lstm_layer(options["lstm"], dataset, f"RNN_1/RNN/MultiRNNCell/Cell{index}/", backward, index)
            for sentence, left, right in zip(layers, forward, backward, strict=True):
                sentence.append(np.concatenate([left, right[::-1]], axis=1))
    return [np.stack(sentence)[:, 1:-1] for sentence in layers]


def _characters(word: str) -> list[int]:
    """Rows of `char_embed` for a word (one less than the ids of a model), padding not included."""
    if word in ("<S>", "</S>"):
        return [258, 256 if word == "<S>" else 257, 259]
    return [258, *word.encode("utf-8", "ignore"), 259]


def _word_vectors(options: dict, dataset: Callable[[str], np.ndarray], words: list[list[int]]) -> list[np.ndarray]:
    """(projection_dim,) for each word: convolutions, maximum, activation, highways, projection."""
    table = dataset("char_embed")
    kernels = [(dataset(f"CNN/W_cnn_{i}")[0], dataset(f"CNN/b_cnn_{i}")) for i in range(len(options["filters"]))]
    longest = options["max_characters_per_token"]

    features = []
    for word in words:
        ids = word if len(word) <= longest else [*word[: longest - 1], word[-1]]
        characters = table[ids + [260] * (longest - len(ids))]
        parts = []
        for kernel, bias in kernels:
            width, _, number = kernel.shape
            windows = [characters[start : start + width].ravel() for start in range(longest - width + 1)]
            scores = np.stack(windows) @ kernel.reshape(-1, number) + bias
            parts.append(scores.max(axis=0))
        pooled = np.concatenate(parts)
        features.append(np.tanh(pooled) if options["activation"] == "tanh" else np.maximum(pooled, 0.0))

    for k in range(options.get("n_highway") or 0):
        w_gate, b_gate = dataset(f"CNN_high_{k}/W_carry"), dataset(f"CNN_high_{k}/b_carry")
        w_new, b_new = dataset(f"CNN_high_{k}/W_transform"), dataset(f"CNN_high_{k}/b_transform")
        for n, x in enumerate(features):
            gate = _sigmoid(x @ w_gate + b_gate)
            features[n] = gate * np.maximum(x @ w_new + b_new, 0.0) + (1.0 - gate) * x
    weight, bias = dataset("CNN_proj/W_proj"), dataset("CNN_proj/b_proj")
    return [x @ weight + bias for x in features]


def _lstm_layer(
    options: dict, dataset: Callable[[str], np.ndarray], prefix: str, sentences: list[np.ndarray], index: int
) -> list[np.ndarray]:
    """(words, projection_dim) in, the same out, for each sentence on its own."""
    kernel, bias = dataset(prefix + "LSTMCell/W_0"), dataset(prefix + "LSTMCell/B")
    projection = dataset(prefix + "LSTMCell/W_P_0")
    cell_clip, output_clip = options.get("cell_clip") or np.inf, options.get("proj_clip") or np.inf

    results = []
    for words in sentences:
        output, cell, outputs = np.zeros(projection.shape[1]), np.zeros(projection.shape[0]), []
        for word in words:
            new, candidate, forget, out = np.split(np.concatenate([word, output]) @ kernel + bias, 4)
            cell = _sigmoid(forget + 1.0) * cell + _sigmoid(new) * np.tanh(candidate)
            cell = np.clip(cell, -cell_clip, cell_clip)
            output = np.clip((_sigmoid(out) * np.tanh(cell)) @ projection, -output_clip, output_clip)
            outputs.append(output)
        skip = words if options.get("use_skip_connections") and index > 0 else 0.0
        results.append(np.stack(outputs) + skip)
    return results


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # In this form no exponential overflows.
    return 0.5 + 0.5 * np.tanh(0.5 * x)
