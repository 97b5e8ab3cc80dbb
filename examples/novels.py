"""
Text for the training of a small ELMo: 95 English novels (1840 to 1920), five of them kept aside, a sentence per line.

    python examples/novels.py eltec-eng.tar.xz OUT_DIR

The archive has one UTF-8 text per novel, a paragraph per line, and `WORKS.tsv`: file, title and author of each
(ELTeC-eng of COST Action "Distant Reading"; the texts are in the public domain). OUT_DIR gets `train/NAME.txt` and
`held_out/NAME.txt`; sentences are not tokenised.
"""

import argparse
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

# A book for each of five decades, by authors of whom there is no other.
HELD_OUT = (
    "ENG18471_Bronte",  # Emily Brontë, Wuthering Heights
    "ENG18621_Braddon",  # Mary Elizabeth Braddon, Lady Audley's Secret
    "ENG18860_Hardy",  # Thomas Hardy, The Mayor of Casterbridge
    "ENG18900_Doyle",  # Arthur Conan Doyle, The Sign of Four
    "ENG19192_Woolf",  # Virginia Woolf, Night and Day
)

# Curly and slanted quotes, hyphens that do not break or show only at the end of a line, spaces that do not break.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2018\u2019\u201b\u0060\u00b4", "'"),
        **dict.fromkeys("\u2010\u2011", "-"),
        "\u00ad": "",
        "\u00a0": " ",
    }
)
_REPLACEMENTS = (
    # A dash of any length, and the blank of "Mrs. R——" and "C____". A hyphen stays.
    (re.compile(r"-{2,}|_{2,}|[\u2013-\u2015]+"), "—"),
    (re.compile(r"…|\.(?: ?\.)+"), "..."),
    # Marks of italics, and the space that they left before a full stop.
    (re.compile(r"[_*]"), ""),
    (re.compile(r"(?<=\w) (?=[.,;:!?](?!\.))"), ""),
    (re.compile(r"\s+"), " "),
)

# Where a sentence may end: a full stop, or a dash where a quotation ends, and what closes quotes and brackets ...
_END = re.compile(r"""(?P<stop>[.!?]|—(?=["']))(?P<closing>["')\]]*) (?=["'(\[]*[A-ZÀ-ÖØ-Þ])""")
# ... but for these and for initials. "I" is a word, and numbers kings and chapters.
_ABBREVIATION = re.compile(
    r"\b(?:[A-HJ-Z]|(?i:Mr|Mrs|Dr|Chap|Vol)|Ms|Messrs|Mdlle|Mlle|Mme|Prof|Rev|Hon|Esq|Bart|St|Ste|Mt|Jr|Sr|Capt|Col|"
    r"Maj|Gen|Lieut|Lt|Sergt|Sgt|Jan|Feb|Aug|Sept|Oct|Nov|Dec|etc|viz|cf|vs|i\.e|e\.g)\.$"
)
_LONGEST_ABBREVIATION = 8
# A quotation may go on with `Mary said`, or `I asked`. `She asked` would have had a small letter.
_SPEAKER = re.compile(
    r"(?!(?:He|She|It|We|You|They|The|A|And|But|Then)\b)(?:[A-ZÀ-ÖØ-Þ][\w'-]*\.? ){1,3}"
    r"(?:added|answered|asked|began|continued|cried|demanded|echoed|exclaimed|inquired|murmured|muttered|observed|"
    r"remarked|repeated|replied|returned|said|shouted|whispered)\b"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path, help="folder to write to")
    arguments = parser.parse_args()

    novels, titles = read_novels(arguments.archive), read_titles(arguments.archive)
    table = Table("set", "novel", *("paragraphs", "sentences", "words between spaces"))
    totals = {"train": [0, 0, 0, 0], "held_out": [0, 0, 0, 0]}
    for name, paragraphs in novels.items():
        kind = "held_out" if name in HELD_OUT else "train"
        sentences = [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]
        folder = arguments.output / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
        counts = [1, len(paragraphs), len(sentences), sum(len(sentence.split()) for sentence in sentences)]
        totals[kind] = [total + count for total, count in zip(totals[kind], counts, strict=True)]
        if kind == "held_out":
            table.add_row(kind, titles[name], *(f"{count:,}" for count in counts[1:]))
    table.add_section()
    for kind, (number, *counts) in totals.items():
        table.add_row(kind, f"{number} novels", *(f"{count:,}" for count in counts))
    for column in table.columns[2:]:
        column.justify = "right"
    Console().print(table)


def read_novels(archive: Path) -> dict[str, list[str]]:
    """
    Paragraphs of each novel, normalised (see [`normalise`]), by name of its file without `.txt`, in order.

    Raises:
        ValueError: a novel of `HELD_OUT` is missing.
    """
    novels = {}
    for name, text in _members(archive, ".txt"):
        paragraphs = map(normalise, text.splitlines())
        novels[name] = [paragraph for paragraph in paragraphs if any(map(str.isalnum, paragraph))]
    if missing := set(HELD_OUT) - set(novels):
        raise ValueError(f"{archive}: must have the novels to keep aside, has no {', '.join(sorted(missing))}.")
    return dict(sorted(novels.items()))


def read_titles(archive: Path) -> dict[str, str]:
    """Year, author and title of each novel, from `WORKS.tsv`, by the same names. A name has the year after `ENG`."""
    ((_, works),) = _members(archive, "WORKS.tsv")
    titles = {}
    for line in works.splitlines()[1:]:
        file, title, author = line.split("\t")
        title = re.sub(r"[ :]+ELTeC edition$", "", title, flags=re.IGNORECASE)
        titles[file.removesuffix(".txt")] = f"{file[3:7]} {re.split(r' [([]', author)[0]}: {title}"
    return titles


def _members(archive: Path, ending: str) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as members:
        for member in members:
            source = members.extractfile(member)
            if member.name.endswith(ending) and source is not None:
                yield Path(member.name).name.removesuffix(ending), source.read().decode("utf-8")


def normalise(paragraph: str) -> str:
    """
    One form of quotes (straight), dashes (one `—`) and ellipses (three full stops), no marks of italics.

    Each book was typed by other hands: a model would learn `“`, `"` and `--` as so many words, each from some of the
    books, and would tell books apart by them. Whether a book quotes with single or double marks is left as it is,
    since a straight apostrophe does not say which it is.
    """
    paragraph = paragraph.translate(_CHARACTERS)
    for pattern, replacement in _REPLACEMENTS:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph.strip()


def split_sentences(paragraph: str) -> list[str]:
    """
    Sentences of a normalised paragraph, as they stand in it.

    A sentence ends with `.`, `!` or `?`, with quotes and brackets that close there, before a space and a capital
    letter that may have an opening quote. It does not end after an abbreviation or an initial, nor between a quotation
    and its speaker.
    """
    sentences, start = [], 0
    for end in _END.finditer(paragraph):
        if not _goes_on(paragraph, end):
            sentences.append(paragraph[start : end.end()].strip())
            start = end.end()
    return [*sentences, paragraph[start:].strip()] if paragraph.strip() else []


def _goes_on(paragraph: str, end: re.Match[str]) -> bool:
    stop, closing = end["stop"], end["closing"]
    if stop == ".":
        last_word = paragraph[max(0, end.start() - _LONGEST_ABBREVIATION) : end.start() + 1]
        return not closing and _ABBREVIATION.search(last_word) is not None
    return closing != "" and _SPEAKER.match(paragraph, end.end()) is not None


if __name__ == "__main__":
    main()
