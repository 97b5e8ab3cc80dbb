"""README.md of a converted or trained checkpoint: what is known of it, how to load it and where it is from."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..configuration_elmo import ElmoConfig
from ..released import Released

if TYPE_CHECKING:
    from .conversion import Conversion


def model_card(
    conversion: "Conversion", license: str | None = None, repo_id: str | None = None, num_sentences: int = 0
) -> str:
    """
    Args:
        conversion: what was done.
        license: an identifier of the Hub, where the publisher of the weights states one.
        repo_id: the repository that the card is for; the name of the folder if there is none.
        num_sentences: on how many it was verified.
    """
    name, entry = conversion.folder.absolute().name, conversion.entry
    sections = [
        _metadata(entry, license, "by the publisher of the weights"),
        _introduction(name, entry),
        _use(conversion.config, repo_id or name),
        _sizes(conversion.config, conversion.num_parameters),
        _source(conversion, num_sentences),
    ]
    if entry is not None:
        sections += [_licence(entry, license), f"## Citation\n\n{entry.citation}"]
    return "\n\n".join(sections) + "\n"


def training_card(
    name: str, config: ElmoConfig, num_parameters: int, facts: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """
    Args:
        name: of the model.
        config: of the model.
        num_parameters: of the model.
        facts: what it was trained on and what came of it, by their names.
        options: arguments of `pretrain`, by their names; those that are `None` or false are left out.
    """
    given = {
        f"`--{name.replace('_', '-')}`": f"`{value}`"
        for name, value in options.items()
        if value is not None and value is not False
    }
    training = _table("## Training\n\nTrained by `elmo-hf pretrain`.", "what", "value", {**facts, **given})
    sections = [_metadata(None, None, "yet"), _introduction(name, None), _use(config, name)]
    return "\n\n".join([*sections, _sizes(config, num_parameters), training]) + "\n"


def _table(heading: str, left: str, right: str, rows: Mapping[str, Any]) -> str:
    lines = [heading, "", f"| {left} | {right} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


def _metadata(entry: Released | None, license: str | None, by_whom: str) -> str:
    lines = ["---", f"license: {license}" if license else f"# license: not stated {by_whom}"]
    if entry is not None and entry.language != "protein":
        lines.append(f"language: {entry.language}")
    lines += ["library_name: transformers", "pipeline_tag: feature-extraction", "tags:"]
    return "\n".join([*lines, "- elmo", "- bilm", "- word-embeddings", "---"])


def _introduction(name: str, entry: Released | None) -> str:
    lines = [
        f"# {name if entry is None else f'ELMo: {entry.title}'}",
        "",
        "ELMo, a bidirectional language model: it gives each word a vector that depends on its sentence",
        "([Deep contextualized word representations](https://arxiv.org/abs/1802.05365), Peters et al., 2018).",
    ]
    if entry is not None:
        lines += ["", f"Trained on: {entry.text}."]
        lines += [entry.note] if entry.note else []
    return "\n".join(lines)


def _use(config: ElmoConfig, repo: str) -> str:
    if "ElmoForPreTraining" in (config.architectures or ()):
        mix = "It is a language model as well: `AutoModelForPreTraining` loads it with its softmax."
    else:
        mix = "`last_hidden_state` is the scalar mix of the layers: trained if the checkpoint had one, else the mean."
    return f"""\
## Use

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({json.dumps(repo)}, trust_remote_code=True)
model = AutoModel.from_pretrained({json.dumps(repo)}, trust_remote_code=True)
inputs = tokenizer(["The river bank was muddy."], return_tensors="pt")
outputs = model(**inputs, output_hidden_states=True)
outputs.last_hidden_state  # (1, words, {config.hidden_size})
outputs.hidden_states      # {config.num_hidden_layers + 1} layers of that shape
```

Where the package `elmo_hf` is installed, `import elmo_hf` stands in for `trust_remote_code`.
{mix}"""


def _sizes(config: ElmoConfig, num_parameters: int) -> str:
    clips = [("cell", config.cell_clip), ("projection", config.proj_clip)]
    rows = [
        ("parameters", f"{num_parameters:,}"),
        ("width of the output", f"{config.hidden_size} (2 directions of {config.projection_dim})"),
        ("LSTM layers in each direction", f"{config.num_hidden_layers}, {config.cell_size} cells each"),
    ]
    if config.word_embedding_dim:
        rows.append(
            ("table of words", f"{config.word_lexicon_size - 1:,} words, vectors of {config.word_embedding_dim}")
        )
    if config.max_characters_per_token:
        filters = ", ".join(f"{number} of width {width}" for width, number in config.char_cnn_filters)
        rows += [
            ("character convolutions", f"{config.num_filters} filters ({filters}), {config.char_cnn_activation}"),
            ("highway layers", str(config.num_highway_layers)),
            ("characters per word", f"{config.max_characters_per_token}, vectors of {config.char_embedding_dim}"),
        ]
    if config.word_vocab_size:
        rows.append(("words that it predicts", f"{config.word_vocab_size:,}"))
    rows += [
        ("clips", ", ".join(f"{part} {'none' if clip is None else f'{clip:g}'}" for part, clip in clips)),
        ("skip connections", "yes" if config.use_skip_connections else "no"),
    ]
    return _table("## Sizes", "part", "size", dict(rows))


def _source(conversion: "Conversion", num_sentences: int) -> str:
    entry, layers = conversion.entry, conversion.config.num_hidden_layers + 1
    lines = ["## Source", "", f"Converted by `elmo-hf convert` from: {conversion.format}."]
    lines += conversion.notes
    if entry is not None:
        lines += [
            "",
            "Downloaded from:",
            "",
            *(f"- <{file}>" for file in entry.files),
            "",
            f"Found in: {entry.source}.",
        ]
    lines += ["", "| file | sha256 |", "|---|---|"]
    lines += [f"| `{file}` | `{sha256}` |" for file, sha256 in conversion.sha256.items()]
    if conversion.difference is None:
        lines += ["", "The conversion was not verified."]
    else:
        lines += [
            "",
            f"Verified: on {num_sentences} sentences all {layers} layers agree with a plain float64 computation",
            f"from these files to {conversion.difference:.1e} of their scale.",
        ]
    return "\n".join(lines)


def _licence(entry: Released, license: str | None) -> str:
    stated = license or "Not stated by the publisher of the weights."
    return "\n".join(["## Licence", "", stated, *([entry.rights] if entry.rights else [])])
