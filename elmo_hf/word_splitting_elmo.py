# SPDX-License-Identifier: Apache-2.0
"""Words of a text: as the Moses tokenizer splits English, at white space, or each character."""

from functools import lru_cache

from tokenizers import Regex, pre_tokenizers

# English words after which Moses keeps a full stop, wherever it stands (its nonbreaking_prefix.en) ...
_ABBREVIATIONS = (
    "[A-Z]|Adj|Adm|Adv|Asst|Bart|Bldg|Brig|Bros|Capt|Cmdr|Col|Comdr|Con|Corp|Cpl|DR|Drs?|Ens|Gen|Gov|Hon|Hosp|Hr|Insp|"
    "Lt|MM|MRS?|MS|Maj|Messrs|Mlle|Mme|Mrs?|Ms|Msgr|Op|Ord|Pfc|Ph|Prof|Pvt|Reps?|Res|Rev|Rt|Sens?|Sfc|Sgt|Sr|St|Supt|"
    "Surg|Rs|Nos|Nr|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Oct|Nov|Dec|rev|vs?"
)
# ... and those after which it keeps it before a number.
_NUMBER_ABBREVIATIONS = "No|Art|pp"


def _moses_pattern() -> str:
    """
    One regular expression (Oniguruma) that matches the words of the Moses tokenizer for English, unescaped.

    Moses rewrites the text a dozen times; here each match is a slice of the original. Deliberate differences: an
    apostrophe that opens or closes the *text* is split off as anywhere else, and so is the second of two commas or of
    two apostrophes (side by side, or with one character between that is no letter); control characters separate
    words; a combining mark stays with its letter.

    Every group is atomic and every loop of groups is bounded, because the library gives up (a panic, not an exception)
    after ten million steps back within one word.
    """
    letter = r"[[:alpha:]\p{M}]"
    inner = r"[[:alnum:]\p{M}`\-]"
    # 1,234 and 5'x are whole; a letter or the s of 1990's begins a word with its apostrophe.
    glue = rf"(?<=\p{{N}}),(?=\p{{N}})|(?<=\p{{N}})'(?={letter})(?!s)"
    # In a'b'c Moses uses up the b with the first apostrophe, and does not split at the second.
    start = rf"(?>(?:(?<={letter})'(?:{letter}'(?={letter})|(?={letter}))|(?<=\p{{N}})'(?=s))?)"
    body = rf"(?>{start}(?:(?>{inner}+)|\.(?={inner})|{glue}){{1,100000}})"
    before_first_dot = rf"(?>{start}(?:(?>{inner}+)|{glue}){{0,100000}})"
    before_first_letter = rf"(?>{start}(?:[[:digit:]\p{{M}}`\-&&[^[:alpha:]]]|\.(?={inner})|{glue}){{0,100000}})"
    full_stop = rf"\.(?![.]|{inner})"
    return "|".join(
        (
            # Two short cuts to what the general rules below give for most words.
            r"(?>[A-Za-z]+)(?=[ ,;:!?])",
            r"[,;:!?]",
            r"(?>\.{2,})",
            rf"(?=[A-Zrv])(?:{_ABBREVIATIONS}){full_stop}",
            rf"(?:{_NUMBER_ABBREVIATIONS})\.(?=(?>\s+)[0-9])",
            # U.S. and a.m. have a letter and another full stop
            rf"(?={before_first_dot}\.{inner})(?={before_first_letter}[[:alpha:]]){body}{full_stop}",
            # any word, and its full stop if the sentence goes on in lower case
            rf"{body}(?:{full_stop}(?=(?>\s+)[[:lower:]]))?",
            r"[^\s\x00-\x1f](?>\p{M}*)",
        )
    )


WORD_PATTERNS = {
    "moses": _moses_pattern(),
    # Python's idea of white space, as in `str.split`: four control characters more than Unicode's.
    "whitespace": r"(?>[^\s\x1c-\x1f]+)",
    # Each residue of a protein, each atom and sign of a SMILES string.
    "characters": r"[^\s\x00-\x1f]",
}


@lru_cache
def _pre_tokenizer(word_splitter: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(Regex(WORD_PATTERNS[word_splitter]), behavior="removed", invert=True)


def split_words(text: str, word_splitter: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Words of a text and where they stand in it, `(start, end)` in characters."""
    if not isinstance(text, str):
        raise TypeError(f"A text must be a `str`, was: {text!r}.")
    try:
        pieces = _pre_tokenizer(word_splitter).pre_tokenize_str(text)
    except UnicodeEncodeError:
        # Rust has no lone surrogates: split with a question mark in their places.
        pieces = _pre_tokenizer(word_splitter).pre_tokenize_str(text.encode("utf-8", "replace").decode())
        pieces = [(text[start:end], (start, end)) for _, (start, end) in pieces]
    return [word for word, _ in pieces], [offset for _, offset in pieces]
