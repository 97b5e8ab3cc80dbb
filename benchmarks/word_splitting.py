"""
Agreement of the Moses word splitter with `sacremoses`, `MosesTokenizer("en").tokenize(text, escape=False)`.

    python -m benchmarks.word_splitting TEXT

TEXT is a UTF-8 text, one paragraph a line, or a tar archive of such, from each of which an equal share is taken.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sacremoses import MosesTokenizer

from benchmarks.texts import sample
from elmo_hf.tokenization_elmo import ElmoTokenizer

NEWSWIRE = (
    "The U.S. dollar rose 5.2 %, to $1,234.56.",
    'Mr. Smith of St. Paul, Minn., said: "It doesn\'t matter (much)."',
    "On Jan. 5 at 7 p.m. the Sens. met; No. 10 didn't comment...",
    "AT&T's well-known 1990's up/down e-mail@host.com -- 50% off!",
)


def spans(words: list[str]) -> set[tuple[int, int]]:
    """Where words are in the text without white space, `(start, end)`: what both tokenizers have in common."""
    found, start = set(), 0
    for word in words:
        found.add((start, start + len(word)))
        start += len(word)
    return found


def differences(ours: list[str], theirs: list[str]) -> Iterator[tuple[str, str]]:
    for kind, start, end, other_start, other_end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind != "equal":
            place = "at the start of a paragraph" if start == 0 else "at its end" if end == len(ours) else "within"
            yield place, f"{' '.join(ours[start:end])}  |  {' '.join(theirs[other_start:other_end])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--characters", type=int, default=2_000_000)
    parser.add_argument("--examples", type=int, default=10, help="of each kind of difference")
    arguments = parser.parse_args()

    tokenizer, moses = ElmoTokenizer(), MosesTokenizer("en")
    paragraphs = sample(arguments.text, arguments.characters)
    counts: Counter[str] = Counter()
    found: dict[str, list[str]] = {}
    for paragraph in paragraphs:
        ours, theirs = tokenizer.tokenize(paragraph), moses.tokenize(paragraph, escape=False)
        counts["ours"] += len(ours)
        counts["theirs"] += len(theirs)
        counts["both"] += len(spans(ours) & spans(theirs))
        counts["paragraphs"] += ours == theirs
        if ours != theirs:
            for place, difference in differences(ours, theirs):
                found.setdefault(place, []).append(difference)

    console = Console()
    table = Table(title=f"{sum(map(len, paragraphs)):,} characters in {len(paragraphs):,} paragraphs")
    table.add_column("agreement with sacremoses")
    table.add_column("", justify="right")
    table.add_row("words of sacremoses", f"{counts['theirs']:,}")
    table.add_row("... with the same span here", f"{counts['both'] / counts['theirs']:.3%}")
    table.add_row("F1 of words", f"{2 * counts['both'] / (counts['ours'] + counts['theirs']):.3%}")
    table.add_row("paragraphs that are identical", f"{counts['paragraphs'] / len(paragraphs):.3%}")
    for place, examples in found.items():
        table.add_row(f"differences {place}", f"{len(examples):,}")
    console.print(table)
    for place, examples in found.items():
        common = Counter(examples).most_common(arguments.examples)
        console.print(f"\nDifferences {place}, ours | theirs:", *(f"  {example}" for example, _ in common), sep="\n")
    console.print("\nNewswire:", *(f"  {' '.join(tokenizer.tokenize(line))}" for line in NEWSWIRE), sep="\n")
    same = sum(tokenizer.tokenize(line) == moses.tokenize(line, escape=False) for line in NEWSWIRE)
    console.print(f"  {same} of {len(NEWSWIRE)} as sacremoses")


if __name__ == "__main__":
    main()
