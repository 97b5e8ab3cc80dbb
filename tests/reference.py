"""
A small biLM with outputs of the original TensorFlow code, which AllenNLP 0.9.0 (Apache-2.0) carries in its wheel.

`python -m tests.reference` fetches it and prints the folder.
"""

import shutil
import sys
import zipfile
from pathlib import Path

from tests.downloads import cached_folder, check_sha256, pip_download

WHEEL = "allennlp-0.9.0-py3-none-any.whl"
WHEEL_SHA256 = "353752e7b78e48c450e27889d80a3000c4a9af34f70ff9091b3031ad01320940"
FOLDER_IN_WHEEL = "allennlp/tests/fixtures/elmo/"
FILES_SHA256 = {
    "options.json": "117cb6d2fb87b8485aa750ef299fa88cc4881f4bead731ea56aec8e944da580d",
    "lm_weights.hdf5": "dfdfd3001b5965b4b6ef857ac772b6624984f8248eaae08fb9be6d1b51ad8755",
    # 3 rows of 10 sentences. `lm_embeddings_k.hdf5` has the top layer of row k, one dataset of (2 directions, words,
    # 16) a sentence, computed in 10 batches of one sentence per row with the LSTM state carried from batch to batch.
    "sentences.json": "f3103518aaf930b32a08209dded69c76ad41bb8e4d99446701ac87e47d76aa1d",
    "lm_embeddings_0.hdf5": "ebeee87fe246cacc2dd4b6b109537cd03bf45c8f5402d3570be7c57ddcb6ea21",
    "lm_embeddings_1.hdf5": "3c1547698ac31d92e2965a555656f0f4680b83ab4ab0a54958646bcbb0f00da0",
    "lm_embeddings_2.hdf5": "b10dabcc36b9461cb49a4ea20b01f395c779df340963fa66cf053b8c99f8f676",
    # 458 words and their vectors before the LSTMs.
    "vocab_test.txt": "7ee65e48076b2fa974278512c5e144d623ffa993d9d33f1a1fdd28c31ee8de05",
    "elmo_token_embeddings.hdf5": "39cd3c881b66b74a7b7d0ba231dbed57cfac89a6a248f4d34e5ec94589e0bd68",
}


def reference_folder() -> Path:
    """
    Folder with the files of `FILES_SHA256`, fetched on first use.

    Raises:
        RuntimeError: the package index cannot be reached, or a file is not the expected one.
    """
    folder = cached_folder("allennlp-0.9.0-elmo", _fill)
    for name, sha256 in FILES_SHA256.items():
        check_sha256(folder / name, sha256)
    return folder


def _fill(folder: Path) -> None:
    wheel = pip_download("allennlp==0.9.0", WHEEL, WHEEL_SHA256, folder)
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES_SHA256:
            with archive.open(FOLDER_IN_WHEEL + name) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
    wheel.unlink()


if __name__ == "__main__":
    try:
        print(reference_folder())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
