"""
Vectors of words from an ONNX file, with NumPy and onnxruntime alone: no PyTorch, no transformers, no elmo_hf.

    elmo-hf export-onnx MODEL elmo.onnx
    python examples/onnx_vectors.py elmo.onnx "The river bank was muddy ."
"""

import sys

import numpy as np
from onnxruntime import InferenceSession


def character_ids(sentences: list[list[str]], length: int = 50) -> np.ndarray:
    """
    (sentences, words, 50) ids of words, zeros at padding: 259 begins a word, each byte plus 1 follows, 260 ends it,
    and 261 fills it up. Bytes beyond the 48th are left out, as bilm-tf and AllenNLP do.
    """
    ids = np.zeros((len(sentences), max(map(len, sentences)), length), dtype=np.int64)
    for row, words in enumerate(sentences):
        for column, word in enumerate(words):
            letters = [byte + 1 for byte in word.encode()[: length - 2]]
            ids[row, column] = ([259, *letters, 260] + [261] * length)[:length]
    return ids


def main(path: str, texts: list[str]):
    sentences = [text.split() for text in texts]
    session = InferenceSession(path)
    (vectors,) = session.run(["last_hidden_state"], {"input_ids": character_ids(sentences)})
    for words, of_sentence in zip(sentences, vectors, strict=True):
        for word, vector in zip(words, of_sentence, strict=False):
            print(f"{word:<12} {np.array2string(vector[:6], precision=4, suppress_small=True)} ...")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
