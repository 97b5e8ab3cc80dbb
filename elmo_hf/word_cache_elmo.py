"""Word vectors that were computed before: context-independent, so a word's vector is the same in every sentence."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor


class WordVectorStore:
    """
    The vectors of the words that were used last, at most `capacity` of them. Any number of threads may ask at once.

    Exact: the key of a word is all its character ids. Belongs to one state of the weights; see `WeightCache`.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._lock = threading.Lock()
        # From a word's ids to its row of `_vectors`, longest unused first.
        self._rows: dict[bytes, int] = {}
        # (rows, features), fewer rows than `capacity` until they are needed; (0, 0) before the first word.
        self._vectors = torch.empty(0, 0)

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, character_ids: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """
        Args:
            character_ids: (words, characters) words, most of them distinct, on the CPU.
            encode: computes (words, features) vectors of the words that are not stored.

        Returns:
            (words, features) vectors, a copy.
        """
        keys = _keys(character_ids)
        with self._lock:
            rows = [self._touch(key) for key in keys]
            known = [index for index, row in enumerate(rows) if row is not None]
            stored = self._vectors[[rows[index] for index in known]] if known else None
        if stored is not None and len(known) == len(keys):
            return stored
        unknown = [index for index, row in enumerate(rows) if row is None]
        computed = encode(character_ids[unknown])
        # A store that was made in inference mode could not be written to outside of it.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            self._insert([keys[index] for index in unknown], computed)
        if stored is None:
            return computed
        vectors = computed.new_empty(len(keys), computed.shape[-1])
        vectors[known], vectors[unknown] = stored, computed
        return vectors

    def _touch(self, key: bytes) -> int | None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._rows[key] = row
        return row

    def _insert(self, keys: list[bytes], vectors: Tensor):
        # Another thread may have been faster. A boundary comes twice when it is a word as well, as between two texts.
        new = list({key: index for index, key in enumerate(keys) if key not in self._rows}.items())[: self.capacity]
        if not new:
            return
        rows = []
        for key, _ in new:
            row = len(self._rows)
            if row >= self.capacity:
                row = self._rows.pop(next(iter(self._rows)))
            self._rows[key] = row
            rows.append(row)
        self._grow(vectors)
        self._vectors[rows] = vectors[[index for _, index in new]]

    def _grow(self, like: Tensor):
        have = len(self._vectors)
        if len(self._rows) <= have:
            return
        grown = like.new_empty(min(self.capacity, max(2 * have, len(self._rows), 256)), like.shape[-1])
        if have:
            grown[:have] = self._vectors
        self._vectors = grown


def _keys(character_ids: Tensor) -> list[bytes]:
    width = 4 * character_ids.shape[1]
    blob = character_ids.to(torch.int32).contiguous().numpy().tobytes()
    return [blob[start : start + width] for start in range(0, len(blob), width)]
