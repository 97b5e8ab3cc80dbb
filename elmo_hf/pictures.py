"""
Pictures of how words are used, by matplotlib: the uses of a word in two dimensions beside sentences that show them,
and a sentence above the uses of words that are nearest to each of its words.

Clusters differ in shape and filling, not in colour alone, so that they can be told apart in print.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import PathLike, atomic_file, check_new_file
from .usage import Neighbor, Uses

FORMATS = (".png", ".svg", ".pdf")

# Colours that people who are blind to red or green tell apart (Okabe and Ito, 2008), from dark to light.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "^", "s", "D", "v", "P")
_IS_FILLED = (True, False, True, False, True, False)
_GRAY = "#555555"

# Characters of a sentence on either side of its word.
_CONTEXT = 38
_LINES_PER_CLUSTER = {1: 12, 2: 6, 3: 4, 4: 3}
_COLUMNS_PER_ROW = 6


def draw_word(word: str, uses: Uses, clusters: Sequence[Sequence[int]], path: PathLike, overwrite: bool = False):
    """
    Draws the uses of a word, the first two principal components of their directions, and typical sentences of each
    cluster, whose numbers are in the picture.

    Args:
        word: the word, for the title.
        uses: see [`elmo_hf.usage.uses_of_words`].
        clusters: of these, see [`elmo_hf.usage.clusters_of`]; six at most.
        path: the file to write, .png, .svg or .pdf.
        overwrite: whether a file in that place is replaced.

    Raises:
        ValueError: another kind of file, or more clusters.
        FileExistsError: the file is there.
        ImportError: there is no matplotlib.
    """
    if len(clusters) > len(_MARKERS):
        raise ValueError(f"`clusters` must be at most {len(_MARKERS)} to be told apart, were: {len(clusters)}.")
    places, shares = _in_two_dimensions(uses.vectors)
    per_cluster = _LINES_PER_CLUSTER.get(len(clusters), 2)
    figure = _figure(path, overwrite, 14, 6.5)
    plane, text = figure.subplots(1, 2, width_ratios=[1, 1.25])
    plane.set(xticks=[], yticks=[], xlabel=f"first principal component, {shares[0]:.0%} of the variance")
    plane.set_ylabel(f"second, {shares[1]:.0%}")
    plane.set_title(f"{_shown(len(uses.vectors), uses.count)} of “{word}”", parse_math=False, loc="left")
    plane.margins(0.08)
    text.set(xlim=(0, 1), ylim=(0, 1))
    text.axis("off")
    lines = sum(min(len(cluster), per_cluster) + 1.6 for cluster in clusters)
    step = min(1 / lines, 0.055)
    height, number = 1.0, 0
    for cluster, color, marker, is_filled in zip(clusters, _COLORS, _MARKERS, _IS_FILLED, strict=False):
        style = {
            "marker": marker,
            "edgecolors": color,
            "facecolors": color if is_filled else "white",
            "linewidths": 1.2,
        }
        plane.scatter(*places[list(cluster)].T, s=34, alpha=0.85, **style)
        height -= step
        text.scatter([0.012], [height], s=60, clip_on=False, **style)
        text.text(0.045, height, f"{len(cluster)} uses" if len(cluster) > 1 else "1 use", va="center", weight="bold")
        for use in cluster[:per_cluster]:
            height, number = height - step, number + 1
            _label(plane, str(number), places[use])
            _line(text, height, str(number), uses.sentences[use], uses.places[use])
        height -= 0.6 * step
    _save(figure, path, overwrite)


def _shown(number: int, count: int) -> str:
    return f"{number:,} uses" if number == count else f"{number:,} of {count:,} uses"


def _in_two_dimensions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uses, hidden_size) -> (uses, 2) and the share of the variance that each of both explains."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    left, values, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    places, shares = np.zeros((len(unit), 2)), np.zeros(2)
    size = min(2, len(values))
    places[:, :size] = left[:, :size] * values[:size]
    if total := np.square(values).sum():
        shares[:size] = np.square(values[:size]) / total
    return places, shares


def _label(axes: Any, text: str, place: np.ndarray):
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        place,
        xytext=(5, 4),
        textcoords="offset points",
        fontsize=8,
        weight="bold",
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _line(axes: Any, height: float, number: str, words: Sequence[str], place: int):
    """A sentence with its word in the middle, as concordances have it."""
    before, after = " ".join(words[:place]), " ".join(words[place + 1 :])
    before = "…" + before[1 - _CONTEXT :] if len(before) > _CONTEXT else before
    after = after[: _CONTEXT - 1] + "…" if len(after) > _CONTEXT else after
    font = {"va": "center", "fontsize": 8.5, "family": "monospace", "parse_math": False}
    axes.text(0.03, height, number, ha="right", va="center", fontsize=8, weight="bold")
    axes.text(0.43, height, f"{before} ", ha="right", **font)
    middle = axes.text(0.43, height, words[place], ha="left", weight="bold", **font)
    axes.annotate(f" {after}", (1, 0.5), xycoords=middle, ha="left", **font)


def draw_sentence(
    words: Sequence[str], neighbors: Sequence[Sequence[Neighbor]], path: PathLike, overwrite: bool = False
):
    """
    Draws the words of a sentence as columns, each above the uses of words that are nearest to it, with two words on
    either side and the cosine.

    Args:
        words: of the sentence.
        neighbors: of each, see [`elmo_hf.usage.neighbors_in_context`].
        path: the file to write, .png, .svg or .pdf.
        overwrite: whether a file in that place is replaced.

    Raises:
        ValueError: another kind of file, or no words.
        FileExistsError: the file is there.
        ImportError: there is no matplotlib.
    """
    if not words:
        raise ValueError("`words` must be a sentence, was empty.")
    columns = min(len(words), _COLUMNS_PER_ROW)
    rows = -(-len(words) // columns)
    depth = max(map(len, neighbors))
    figure = _figure(path, overwrite, 2.35 * columns, rows * (0.75 + 0.5 * depth))
    for axes, place in zip(figure.subplots(rows, columns, squeeze=False).flat, range(rows * columns), strict=True):
        axes.axis("off")
        if place < len(words):
            axes.set(xlim=(0, 1), ylim=(depth + 0.2, -1))
            axes.text(0.5, -0.5, _cut(words[place], 18), ha="center", va="center", fontsize=13, parse_math=False)
            axes.plot([0.03, 0.97], [0, 0], color="black", linewidth=1)
            for number, neighbor in enumerate(neighbors[place]):
                _neighbor(axes, number, neighbor)
    _save(figure, path, overwrite)


def _neighbor(axes: Any, number: int, neighbor: Neighbor):
    """Its word, and smaller below it the words around it."""
    axes.text(0.03, number + 0.35, _cut(neighbor.word, 16), va="center", weight="bold", fontsize=10, parse_math=False)
    axes.text(0.97, number + 0.35, f"{neighbor.similarity:.2f}", va="center", ha="right", fontsize=8, color=_GRAY)
    before = neighbor.sentence[max(neighbor.place - 2, 0) : neighbor.place]
    after = neighbor.sentence[neighbor.place + 1 : neighbor.place + 3]
    around = _cut(" ".join([*before, "·", *after]), 30)
    axes.text(0.03, number + 0.72, around, va="center", fontsize=7.5, color=_GRAY, style="italic", parse_math=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def check_picture(path: PathLike, overwrite: bool = False):
    """
    Whether a picture can be drawn, before a text is read for it.

    Raises:
        ValueError: the name tells no format.
        FileExistsError: the file is there.
        ImportError: there is no matplotlib.
    """
    if Path(path).suffix not in FORMATS:
        raise ValueError(f"{path}: must end in {', '.join(FORMATS)}, which tell the format.")
    check_new_file(path, overwrite)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("Pictures need matplotlib: pip install 'elmo-hf[corpus]'.") from None


def _figure(path: PathLike, overwrite: bool, width: float, height: float) -> Any:
    check_picture(path, overwrite)
    from matplotlib.figure import Figure

    # Not pyplot, which asks for a screen and keeps what it draws.
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: PathLike, overwrite: bool):
    suffix = Path(path).suffix[1:]
    # Without a date, the same picture is the same bytes.
    dates: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150, metadata=dates[suffix])
