"""Small checkpoints of random numbers, and how two of them are compared."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Checkpoint = tuple[Path, Path]

# What bilm-tf can make beside the published sizes: all options that change the arithmetic, at both ends.
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "no skip connections": {"use_skip_connections": False},
    "tanh": {"activation": "tanh"},
    "clips that bite": {"cell_clip": 0.2, "proj_clip": 0.1},
    "no clips": {"cell_clip": None, "proj_clip": 0},
    "one layer, no highway": {"n_layers": 1, "n_highway": 0},
    "three layers, two highways": {"n_layers": 3, "n_highway": 2},
    "other filters, training's 261": {"filters": [[3, 2], [1, 7]], "n_characters": 261},
    "words of 20 characters": {"max_characters": 20},
}


def write_random_checkpoint(
    folder: Path,
    seed: int = 0,
    filters: list[list[int]] | None = None,
    n_layers: int = 2,
    n_highway: int = 1,
    activation: str = "relu",
    use_skip_connections: bool = True,
    cell_clip: float | None = 3,
    proj_clip: float | None = 3,
    n_characters: int = 262,
    max_characters: int = 50,
    **storage: Any,
) -> Checkpoint:
    """A checkpoint of random numbers, written name by name: it does not know the table that it tests."""
    filters = filters or [[1, 4], [2, 3], [5, 4]]
    dim, width, cell, total = 3, 5, 6, sum(number for _, number in filters)
    options = {
        "lstm": {
            "cell_clip": cell_clip,
            "dim": cell,
            "n_layers": n_layers,
            "proj_clip": proj_clip,
            "projection_dim": width,
            "use_skip_connections": use_skip_connections,
        },
        "char_cnn": {
            "activation": activation,
            "embedding": {"dim": dim},
            "filters": filters,
            "max_characters_per_token": max_characters,
            "n_characters": n_characters,
            "n_highway": n_highway,
        },
    }
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (261, dim)}
    for i, (size, number) in enumerate(filters):
        shapes |= {f"CNN/W_cnn_{i}": (1, size, dim, number), f"CNN/b_cnn_{i}": (number,)}
    for k in range(n_highway):
        for name in ("transform", "carry"):
            shapes |= {f"CNN_high_{k}/W_{name}": (total, total), f"CNN_high_{k}/b_{name}": (total,)}
    shapes |= {"CNN_proj/W_proj": (total, width), "CNN_proj/b_proj": (width,)}
    for direction in range(2):
        for layer in range(n_layers):
            prefix = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
            shapes |= {
                prefix + "W_0": (2 * width, 4 * cell),
                prefix + "B": (4 * cell,),
                prefix + "W_P_0": (cell, width),
            }

    folder.mkdir(parents=True, exist_ok=True)
    options_file, weight_file = folder / "options.json", folder / "weights.hdf5"
    options_file.write_text(json.dumps(options), encoding="utf-8")
    random = np.random.default_rng(seed)
    with h5py.File(weight_file, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name, data=random.normal(scale=0.7, size=shape).astype(np.float32), **storage)
    return options_file, weight_file


def datasets_of(weight_file: Path) -> dict[str, np.ndarray]:
    """Every dataset of an hdf5 file by name."""
    found = {}
    with h5py.File(weight_file, "r") as file:
        file.visititems(lambda name, node: found.update({name: node[()]} if isinstance(node, h5py.Dataset) else {}))
    return found


def assert_same_bits(given: Path, expected: Path):
    given_datasets, expected_datasets = datasets_of(given), datasets_of(expected)
    assert given_datasets.keys() == expected_datasets.keys()
    for name, values in expected_datasets.items():
        assert given_datasets[name].dtype == values.dtype, name
        assert given_datasets[name].shape == values.shape, name
        assert given_datasets[name].tobytes() == values.tobytes(), name
