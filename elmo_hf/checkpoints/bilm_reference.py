"""
The biLM a second time, deliberately plain: numpy in float64, one word and one time step after the other. Conversion
holds its result against this. It shares no code with the model, the tokenizer or the tables of tensors, because a
mistake that both made would go unseen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

# Takes the name of an array of a checkpoint and gives its numbers.
Arrays = Callable[[str], np.ndarray]
# Two weights and two biases: what is carried in, and the gate that opens it.
Highway = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Cell:
    """One LSTM layer in one direction: (inputs, cells) weights and (cells,) biases of each gate, by its letter."""

    inputs: dict[str, np.ndarray]
    recurrent: dict[str, np.ndarray]
    biases: dict[str, np.ndarray]
    # (cells, outputs); a layer without it gives its cells.
    projection: np.ndarray | None


@dataclass
class PlainBilm:
    """
    A biLM as its file has it, with what its options say. `cell` is called with direction and layer, and `word_row`
    with a word, only when they are needed, because all of a large model has no place in float64.
    """

    num_layers: int
    cell: Callable[[int, int], Cell]
    # Numbers of the characters of a word, as many as the filters see.
    spell: Callable[[str], list[int]] | None = None
    word_row: Callable[[str], np.ndarray] | None = None
    boundaries: tuple[str, str] = ("<S>", "</S>")
    # (characters, dim)
    characters: np.ndarray | None = None
    # (width, dim, filters) and (filters,)
    filters: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    highways: Callable[[], Iterable[Highway]] = tuple
    # (features, outputs) and (outputs,)
    projection: tuple[np.ndarray, np.ndarray] | None = None
    activation: str = "relu"
    cell_clip: float = np.inf
    projection_clip: float = np.inf
    use_skip_connections: bool = True

    def layers(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """
        All layers for a few sentences, without state from one to the next. Slow, and meant to be.

        Returns:
            For each sentence a float64 array (LSTM layers + 1, words, 2 * outputs), the word vectors twice in front.
            The sentence boundaries are computed and left out.
        """
        return [both[:, 1:-1] for both in self.layers_with_boundaries(sentences)]

    def layers_with_boundaries(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """As `layers`, of `<S>` and `</S>` as well."""
        begin, end = self.boundaries
        framed = [[begin, *words, end] for words in sentences]
        vectors = self._word_vectors(sorted({word for words in framed for word in words}))
        inputs = [np.stack([vectors[word] for word in words]) for words in framed]
        layers = [[np.concatenate([x, x], axis=1)] for x in inputs]
        # Reading a sentence from its end is the backward direction; its outputs are turned round again below.
        forward, backward = inputs, [x[::-1] for x in inputs]
        for index in range(self.num_layers):
            forward = self._run(self.cell(0, index), forward, index)
            backward = self._run(self.cell(1, index), backward, index)
            for sentence, left, right in zip(layers, forward, backward, strict=True):
                sentence.append(np.concatenate([left, right[::-1]], axis=1))
        return [np.stack(sentence) for sentence in layers]

    def _word_vectors(self, words: Sequence[str]) -> dict[str, np.ndarray]:
        """(outputs,) for each word: convolutions, maximum, activation, highways, beside the table, projection."""
        features = {word: self._character_features(word) for word in words} if self.spell else {}
        for w_new, b_new, w_gate, b_gate in self.highways() if self.spell else ():
            for word, x in features.items():
                gate = _sigmoid(x @ w_gate + b_gate)
                features[word] = gate * np.maximum(x @ w_new + b_new, 0.0) + (1.0 - gate) * x
        if self.word_row is not None:
            features = {word: np.concatenate([self.word_row(word), features.get(word, [])]) for word in words}
        if self.projection is None:
            return features
        weight, bias = self.projection
        return {word: x @ weight + bias for word, x in features.items()}

    def _character_features(self, word: str) -> np.ndarray:
        assert self.spell is not None
        assert self.characters is not None
        letters = self.characters[self.spell(word)]
        parts = []
        for kernel, bias in self.filters:
            width = len(kernel)
            windows = [letters[start : start + width].ravel() for start in range(len(letters) - width + 1)]
            scores = np.stack(windows) @ kernel.reshape(-1, len(bias)) + bias
            parts.append(scores.max(axis=0))
        pooled = np.concatenate(parts)
        return np.tanh(pooled) if self.activation == "tanh" else np.maximum(pooled, 0.0)

    def _run(self, layer: Cell, sentences: list[np.ndarray], index: int) -> list[np.ndarray]:
        """(words, outputs) in, the same out, for each sentence on its own."""
        results = []
        for words in sentences:
            output, cell, outputs = np.zeros(words.shape[1]), np.zeros(len(layer.biases["i"])), []
            for word in words:
                gates = {
                    name: word @ layer.inputs[name] + output @ layer.recurrent[name] + layer.biases[name]
                    for name in "ijfo"
                }
                cell = _sigmoid(gates["f"]) * cell + _sigmoid(gates["i"]) * np.tanh(gates["j"])
                cell = np.clip(cell, -self.cell_clip, self.cell_clip)
                output = _sigmoid(gates["o"]) * np.tanh(cell)
                if layer.projection is not None:
                    output = np.clip(output @ layer.projection, -self.projection_clip, self.projection_clip)
                outputs.append(output)
            skip = words if self.use_skip_connections and index > 0 else 0.0
            results.append(np.stack(outputs) + skip)
        return results


def spell_bytes(width: int) -> Callable[[str], list[int]]:
    """The rows of `char_embed` in the file of bilm-tf for a word (one less than the ids of a model)."""

    def spell(word: str) -> list[int]:
        if word in ("<S>", "</S>"):
            ids = [258, 256 if word == "<S>" else 257, 259]
        else:
            ids = [258, *word.encode("utf-8", "ignore")[: width - 2], 259]
        return ids + [260] * (width - len(ids))

    return spell


def plain_bilm_tf(
    options: dict, arrays: Arrays, has: Callable[[str], bool], vocabulary: Sequence[str] = ()
) -> PlainBilm:
    """
    Of the arrays of bilm-tf by the names that its hdf5 files have.

    Args:
        options: of options.json; they must have been checked.
        arrays: gives an array by its name, as it lies in the file.
        has: whether there is an array of this name.
        vocabulary: the words of a biLM that has no characters, in the order of its table.
    """

    def array(name: str) -> np.ndarray:
        return arrays(name).astype(np.float64)

    lstm = options["lstm"]
    plain = PlainBilm(
        lstm.get("n_layers", 1),
        lambda direction, layer: _tf_cell(array, has, f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"),
        cell_clip=lstm.get("cell_clip") or np.inf,
        projection_clip=lstm.get("proj_clip") or np.inf,
        use_skip_connections=lstm.get("use_skip_connections", False),
    )
    if "char_cnn" not in options:
        rows = {word: row for row, word in enumerate(vocabulary)}
        table = arrays("embedding")
        plain.word_row = lambda word: table[rows.get(word, rows["<UNK>"])].astype(np.float64)
        return plain

    _read_tf_characters(plain, options["char_cnn"], array, has)
    return plain


def _tf_cell(array: Arrays, has: Callable[[str], bool], prefix: str) -> Cell:
    kernel, bias = array(prefix + "W_0"), array(prefix + "B")
    # The rows of the input lie above those of the state that recurs.
    above, below = kernel[: len(kernel) // 2], kernel[len(kernel) // 2 :]
    size = len(bias) // 4
    parts = {name: slice(place * size, (place + 1) * size) for place, name in enumerate("ijfo")}
    biases = {name: bias[part] for name, part in parts.items()}
    # TensorFlow adds it when it runs.
    biases["f"] = biases["f"] + 1.0
    return Cell(
        {name: above[:, part] for name, part in parts.items()},
        {name: below[:, part] for name, part in parts.items()},
        biases,
        array(prefix + "W_P_0") if has(prefix + "W_P_0") else None,
    )


def _read_tf_characters(plain: PlainBilm, sizes: dict, array: Arrays, has: Callable[[str], bool]):
    def highway(k: int) -> Highway:
        names = ("W_transform", "b_transform", "W_carry", "b_carry")
        w_new, b_new, w_gate, b_gate = (array(f"CNN_high_{k}/{name}") for name in names)
        return w_new, b_new, w_gate, b_gate

    # A model's own table has a row more, in front.
    plain.characters = array("char_embed")[-261:]
    plain.spell = spell_bytes(sizes["max_characters_per_token"])
    plain.filters = [(array(f"CNN/W_cnn_{i}")[0], array(f"CNN/b_cnn_{i}")) for i in range(len(sizes["filters"]))]
    plain.highways = lambda: map(highway, range(sizes.get("n_highway") or 0))
    plain.activation = sizes["activation"]
    if has("CNN_proj/W_proj"):
        plain.projection = array("CNN_proj/W_proj"), array("CNN_proj/b_proj")


def plain_torch_cell(arrays: Arrays, prefix: str) -> Cell:
    """A layer of AllenNLP or ELMoForManyLangs: gates i, f, j, o below each other, the forget bias included."""

    def array(name: str) -> np.ndarray:
        return arrays(prefix + name).astype(np.float64)

    inputs, recurrent, biases = (
        dict(zip("ifjo", np.split(array(name).T, 4, axis=-1), strict=True))
        for name in ("input_linearity.weight", "state_linearity.weight", "state_linearity.bias")
    )
    return Cell(inputs, recurrent, biases, array("state_projection.weight").T)


def plain_torch_highway(weight: np.ndarray, bias: np.ndarray) -> Highway:
    """A highway of AllenNLP: what is new and the gate, one below the other, and the gate opens what is *not* new."""
    (w_new, w_old), (b_new, b_old) = np.split(weight.astype(np.float64), 2), np.split(bias.astype(np.float64), 2)
    return w_new.T, b_new, -w_old.T, -b_old


def log_probabilities(
    top: np.ndarray, rows: Callable[[int, int], tuple[np.ndarray, np.ndarray]], num_words: int, targets: Sequence[int]
) -> np.ndarray:
    """
    (positions,) logarithms of the probabilities of `targets` after (positions, outputs) of the top layer. The softmax
    is read in blocks: `rows(start, end)` gives its (words, outputs) weights and (words,) biases.
    """
    logits = []
    for start in range(0, num_words, 65536):
        weight, bias = rows(start, min(start + 65536, num_words))
        logits.append(top @ weight.T.astype(np.float64) + bias)
    scores = np.concatenate(logits, axis=1)
    peak = scores.max(axis=1)
    total = peak + np.log(np.exp(scores - peak[:, None]).sum(axis=1))
    return scores[np.arange(len(top)), list(targets)] - total


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # In this form no exponential overflows.
    return 0.5 + 0.5 * np.tanh(0.5 * x)
