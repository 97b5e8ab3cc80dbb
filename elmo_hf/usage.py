"""
How words are used, for those who study language: the average vector of each word of a text, how far words moved
between two texts, and the geometry of each layer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .batching import as_words, run_in_batches
from .embedding import Choice, ElmoEmbedder, Layers, are_several
from .files import PathLike, atomic_file
from .sentence_files import Sentence


def _embedded(
    embedder: ElmoEmbedder, sentences: Iterable[Sentence], choice: Choice
) -> Iterator[tuple[list[str], np.ndarray]]:
    """The words of each sentence, and their (..., words, hidden_size) vectors."""
    waiting: list[list[str]] = []

    def words() -> Iterator[list[str]]:
        for sentence in sentences:
            waiting.append(as_words(sentence, embedder.tokenizer))
            yield waiting[-1]

    for vectors in run_in_batches(words(), lambda batch: embedder._run(choice, batch), embedder.batch_size):
        yield waiting.pop(0), vectors.numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Types
# ---------------------------------------------------------------------------------------------------------------------


def type_vectors(
    embedder: ElmoEmbedder, sentences: Iterable[Sentence], layers: Layers = "average", min_count: int = 5
) -> dict[str, tuple[int, np.ndarray]]:
    """
    How often each word occurs in a text and the average of its vectors there, the most frequent first.

    Args:
        embedder: the model and its tokenizer.
        sentences: text, or lists of words.
        layers: one vector per word, as `ElmoEmbedder.embed` takes it.
        min_count: rarer words are left out.

    Raises:
        ValueError: `layers` gives several vectors per word.
    """
    choice = _single(embedder, layers)
    counts: Counter[str] = Counter()
    sums: dict[str, np.ndarray] = {}
    for words, vectors in _embedded(embedder, sentences, choice):
        for word, vector in zip(words, vectors, strict=True):
            counts[word] += 1
            if word in sums:
                sums[word] += vector
            else:
                sums[word] = vector.astype(np.float64)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {
        word: (counts[word], (sums[word] / counts[word]).astype(np.float32))
        for word in ranked
        if counts[word] >= min_count
    }


def _single(embedder: ElmoEmbedder, layers: Layers) -> Choice:
    if are_several(layers):
        raise ValueError(f"`layers` must give one vector per word, was: {layers!r}.")
    return embedder.selection(layers)


def write_word2vec(vectors: dict[str, tuple[int, np.ndarray]], path: PathLike, overwrite: bool = False):
    """
    Writes vectors of words in the text format of word2vec, which gensim's `KeyedVectors.load_word2vec_format` reads.

    Raises:
        FileExistsError: the file is there.
        ValueError: there is no word.
    """
    if not vectors:
        raise ValueError("`vectors` must have a word, has none: is `min_count` higher than any?")
    size = len(next(iter(vectors.values()))[1])
    with atomic_file(path, overwrite=overwrite) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"{len(vectors)} {size}\n")
        for word, (_, vector) in vectors.items():
            file.write(f"{word} {' '.join(f'{number:.6g}' for number in vector)}\n")


# ---------------------------------------------------------------------------------------------------------------------
# Change
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Uses:
    """
    Occurrences of a word.

    Attributes:
        vectors: (uses, hidden_size), in the order of the text.
        sentences: the words of the sentence that each stands in.
        places: its number in them, from 0.
        count: how often the word occurs, of which these are a sample.
    """

    vectors: np.ndarray
    sentences: list[list[str]]
    places: list[int]
    count: int


@dataclass
class WordChange:
    """
    How far a word moved between two texts, 0 for not at all.

    Attributes:
        word: the word.
        apd: average cosine distance of a use in one text and a use in the other.
        prototype: cosine distance of the averages of both.
        jsd: Jensen-Shannon divergence of how the uses of both fall into clusters, from 0 to 1.
        counts: how often it occurs in each.
        examples: the words of two sentences of each, those farthest from the other text.
    """

    word: str
    apd: float
    prototype: float
    jsd: float
    counts: tuple[int, int]
    examples: tuple[list[list[str]], list[list[str]]] = field(default_factory=lambda: ([], []))


def uses_of_words(
    embedder: ElmoEmbedder,
    sentences: Iterable[Sentence],
    words: Iterable[str],
    layers: Layers = "average",
    max_uses: int = 200,
    seed: int = 0,
) -> dict[str, Uses]:
    """
    The uses of some words in a text, at most `max_uses` of each, drawn with equal chances.

    Raises:
        ValueError: `layers` gives several vectors per word.
    """
    choice, wanted, draw = _single(embedder, layers), set(words), np.random.default_rng(seed)
    kept: dict[str, list[tuple[int, np.ndarray, list[str], int]]] = {word: [] for word in wanted}
    counts: Counter[str] = Counter()
    for sentence, vectors in _embedded(embedder, sentences, choice):
        for place, word in enumerate(sentence):
            if word not in wanted:
                continue
            counts[word] += 1
            use = (counts[word], vectors[place].copy(), sentence, place)
            if len(kept[word]) < max_uses:
                kept[word].append(use)
            # Each of the uses so far stays with the same chance.
            elif (slot := int(draw.integers(counts[word]))) < max_uses:
                kept[word][slot] = use
    return {
        word: Uses(np.stack(vectors), list(sentences), list(places), counts[word])
        for word, uses in kept.items()
        if uses
        for _, vectors, sentences, places in [zip(*sorted(uses, key=lambda use: use[0]), strict=True)]
    }


def clusters_of(uses: Uses, number: int | None = None, seed: int = 0) -> list[list[int]]:
    """
    The uses of a word in groups of similar ones: numbers of uses, the most typical of each group first, the largest
    group first.

    Args:
        uses: see [`uses_of_words`].
        number: of groups, at most; when absent, that of two to six which divides them best (silhouette).
        seed: of the first centres.

    Raises:
        ImportError: there is no scikit-learn.
    """
    unit = _unit(uses.vectors)
    different = len(np.unique(unit, axis=0))
    if number is None:
        from sklearn.metrics import silhouette_score

        # A silhouette needs groups of several.
        candidates = [_k_means(unit, size, seed) for size in range(2, min(6, different - 1) + 1)]
        found = max(candidates, key=lambda found: silhouette_score(unit, found[0])) if candidates else None
    else:
        found = _k_means(unit, min(number, different), seed)
    if found is None:
        return [list(range(len(unit)))]
    labels, centres = found
    nearness = (unit * _unit(centres)[labels]).sum(1)
    groups = [
        sorted(np.flatnonzero(labels == label).tolist(), key=lambda use: -nearness[use]) for label in set(labels)
    ]
    return sorted(groups, key=lambda group: (-len(group), group))


def _k_means(vectors: np.ndarray, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The group of each, and the centre of each group."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise ImportError("Clusters need scikit-learn: pip install 'elmo-hf[corpus]'.") from None
    found = KMeans(number, n_init=4, random_state=seed).fit(vectors)
    return found.labels_, found.cluster_centers_


@dataclass
class Neighbor:
    """
    A use of a word in a text.

    Attributes:
        similarity: cosine with the use that it is a neighbor of.
        sentence: the words of its sentence.
        place: its number in them, from 0.
    """

    similarity: float
    sentence: list[str]
    place: int

    @property
    def word(self) -> str:
        """The word itself."""
        return self.sentence[self.place]


def neighbors_in_context(
    embedder: ElmoEmbedder,
    sentence: Sentence,
    sentences: Iterable[Sentence],
    layers: Layers = "average",
    number: int = 5,
) -> tuple[list[str], list[list[Neighbor]]]:
    """
    The words of a sentence, and for each those uses of words in a text whose vectors are most similar, the nearest
    first. Sentences of the text that are the same as this one, or were there before, do not count.

    Raises:
        ValueError: `layers` gives several vectors per word.
    """
    choice = _single(embedder, layers)
    words = as_words(sentence, embedder.tokenizer)
    ((_, vectors),) = _embedded(embedder, [words], choice)
    wanted, seen = _unit(vectors), {hash(tuple(words))}
    nearest: list[list[Neighbor]] = [[] for _ in words]
    for other, others in _embedded(embedder, sentences, choice):
        if not other or hash(tuple(other)) in seen:
            continue
        seen.add(hash(tuple(other)))
        similarities = wanted @ _unit(others).T
        for found, row in zip(nearest, similarities, strict=True):
            place = int(row.argmax())
            if len(found) < number or row[place] > found[-1].similarity:
                found.append(Neighbor(float(row[place]), other, place))
                found.sort(key=lambda neighbor: -neighbor.similarity)
                del found[number:]
    return words, nearest


def change_between(old: dict[str, Uses], new: dict[str, Uses], clusters: int = 5) -> list[WordChange]:
    """
    How far each word that both texts have moved, the farthest by `prototype` first: unlike `apd`, it is small for a
    word that has several meanings in both.

    Args:
        old: uses in one text, see [`uses_of_words`].
        new: uses in the other.
        clusters: of the uses of both, for `jsd`; needs scikit-learn.
    """
    found = [_change(word, old[word], new[word], clusters) for word in sorted(old.keys() & new.keys())]
    return sorted(found, key=lambda change: -change.prototype)


def _change(word: str, old: Uses, new: Uses, clusters: int) -> WordChange:
    first, second = _unit(old.vectors), _unit(new.vectors)
    # The average over all pairs is that of the averages.
    similarities = first @ second.mean(0), second @ first.mean(0)
    prototypes = old.vectors.mean(0), new.vectors.mean(0)
    examples = [
        [uses.sentences[place] for place in np.argsort(near)[:2]]
        for uses, near in zip((old, new), similarities, strict=True)
    ]
    return WordChange(
        word,
        float(1 - similarities[0].mean()),
        float(1 - _unit(prototypes[0]) @ _unit(prototypes[1])),
        _divergence(first, second, clusters),
        (old.count, new.count),
        (examples[0], examples[1]),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _divergence(first: np.ndarray, second: np.ndarray, clusters: int) -> float:
    both = np.concatenate([first, second])
    number = min(clusters, len(np.unique(both, axis=0)))
    labels, _ = _k_means(both, number)
    shares = [np.bincount(part, minlength=number) / len(part) for part in (labels[: len(first)], labels[len(first) :])]
    middle = (shares[0] + shares[1]) / 2
    return (_entropy_relative(shares[0], middle) + _entropy_relative(shares[1], middle)) / 2


def _entropy_relative(share: np.ndarray, other: np.ndarray) -> float:
    """In bits."""
    there = share > 0
    return float((share[there] * np.log2(share[there] / other[there])).sum())


# ---------------------------------------------------------------------------------------------------------------------
# Geometry
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class LayerGeometry:
    """
    What Ethayarajh (2019, arXiv:1909.00512) measures of a layer.

    Attributes:
        layer: its number, 0 for the word vectors.
        random_similarity: mean cosine of two uses of words drawn at random: how narrow the cone is.
        self_similarity: mean cosine of two uses of the same word.
        sentence_similarity: mean cosine of a word and the average of its sentence.
        first_component: share of the variance of a word's uses that their first principal component explains.
    """

    layer: int
    random_similarity: float
    self_similarity: float
    sentence_similarity: float
    first_component: float


def geometry(
    embedder: ElmoEmbedder, sentences: Iterable[Sentence], min_count: int = 5, max_words: int = 500, seed: int = 0
) -> list[LayerGeometry]:
    """
    The geometry of each layer over a text, whose vectors are held in memory: some thousand sentences.

    Args:
        embedder: the model and its tokenizer.
        sentences: text, or lists of words.
        min_count: rarer words have no self-similarity.
        max_words: so many words are drawn for it, and twice as many uses for random pairs.
        seed: of what is drawn.

    Raises:
        ValueError: no word occurs so often.
    """
    pieces = list(_embedded(embedder, sentences, embedder.selection("all")))
    places: dict[str, list[int]] = {}
    position = 0
    for words, _ in pieces:
        for word in words:
            places.setdefault(word, []).append(position)
            position += 1
    frequent = sorted(word for word, found in places.items() if len(found) >= max(min_count, 2))
    if not frequent:
        raise ValueError(f"`min_count` must be at most that of some word, was: {min_count}.")
    draw = np.random.default_rng(seed)
    if len(frequent) > max_words:
        frequent = sorted(draw.choice(frequent, max_words, replace=False).tolist())
    drawn = draw.choice(position, min(position, 2 * max_words), replace=False)
    # (layers, all words, hidden_size)
    vectors = np.concatenate([vectors for _, vectors in pieces], axis=1)
    lengths = [len(words) for words, _ in pieces]
    return [
        _layer_geometry(number, layer.astype(np.float64), lengths, [places[word] for word in frequent], drawn)
        for number, layer in enumerate(vectors)
    ]


def _layer_geometry(
    number: int, vectors: np.ndarray, lengths: Sequence[int], uses: Sequence[list[int]], drawn: np.ndarray
) -> LayerGeometry:
    unit = _unit(vectors)
    ends = np.cumsum([0, *lengths])
    in_sentences = [
        unit[start:end] @ _unit(vectors[start:end].mean(0)) for start, end in pairwise(ends) if end > start
    ]
    return LayerGeometry(
        number,
        _mean_of_pairs(unit[drawn]),
        float(np.mean([_mean_of_pairs(unit[places]) for places in uses])),
        float(np.mean([similarities.mean() for similarities in in_sentences])),
        float(np.mean([_first_component(vectors[places]) for places in uses])),
    )


def _mean_of_pairs(unit: np.ndarray) -> float:
    """Mean cosine of two different ones of (n, hidden_size) unit vectors."""
    number = len(unit)
    total = np.square(unit.sum(0)).sum() - np.square(unit).sum()
    return float(total / (number * (number - 1)))


def _first_component(vectors: np.ndarray) -> float:
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    total = values.sum()
    return float(values[0] / total) if total else 1.0


def words_for_change(old: Counter[str], new: Counter[str], min_count: int, max_words: int) -> list[str]:
    """The most frequent words of both texts that are words of letters, those that occur often enough in each."""
    shared = [word for word in old if min(old[word], new[word]) >= min_count and word.isalpha()]
    return sorted(shared, key=lambda word: (-min(old[word], new[word]), word))[:max_words]
