"""`ElmoForPreTraining`: losses and probabilities of sentences and of streams, and its folder."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from elmo_hf import ElmoForPreTraining, ElmoModel
from elmo_hf.corpus import BilmSentences
from tests.language_model import TEXT, corpus, language_model, word_tokenizer


def batch(sentences: list[list[str]], padding_side: str = "right") -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels` of sentences."""
    tokenizer = word_tokenizer()
    inputs = dict(
        tokenizer(sentences, is_split_into_words=True, padding=True, padding_side=padding_side, return_tensors="pt")
    )
    labels = torch.full(inputs["attention_mask"].shape, -100)
    labels[inputs["attention_mask"].bool()] = torch.cat(
        [torch.from_numpy(tokenizer.words_to_labels(words)) for words in sentences]
    )
    return {**inputs, "labels": labels}


def by_hand(model: ElmoForPreTraining, words: list[str]) -> tuple[list[float], list[float]]:
    """What each direction gives to each word and to the far boundary, from the layers of the embedding model."""
    tokenizer = word_tokenizer()
    model.elmo.config.keep_sentence_boundaries = True
    inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    top = model.elmo(**inputs, output_hidden_states=True).hidden_states[-1][0]
    model.elmo.config.keep_sentence_boundaries = False
    ahead, behind = model.softmax(top[:, :6]), model.softmax(top[:, 6:])
    labels = tokenizer.words_to_labels(["<S>", *words, "</S>"])
    forward = [float(ahead[index - 1, labels[index]]) for index in range(1, len(labels))]
    backward = [float(behind[index + 1, labels[index]]) for index in range(len(labels) - 1)]
    return forward, backward


@torch.no_grad()
def test_probabilities_are_those_of_the_layers_by_hand():
    model = language_model()
    scores = model.log_probabilities(**batch(TEXT))
    for row, words in enumerate(TEXT):
        forward, backward = by_hand(model, words)
        torch.testing.assert_close(scores.forward[row, : len(words)], torch.tensor(forward[:-1]))
        torch.testing.assert_close(scores.forward_end[row], torch.tensor(forward[-1]))
        torch.testing.assert_close(scores.backward[row, : len(words)], torch.tensor(backward[1:]))
        torch.testing.assert_close(scores.backward_begin[row], torch.tensor(backward[0]))
        assert not scores.forward[row, len(words) :].any()


@torch.no_grad()
def test_loss_is_the_average_over_words_and_ends():
    model = language_model()
    outputs, scores = model(**batch(TEXT)), model.log_probabilities(**batch(TEXT))
    number = sum(map(len, TEXT)) + len(TEXT)
    torch.testing.assert_close(outputs.forward_loss, -(scores.forward.sum() + scores.forward_end.sum()) / number)
    torch.testing.assert_close(outputs.backward_loss, -(scores.backward.sum() + scores.backward_begin.sum()) / number)
    torch.testing.assert_close(outputs.loss, (outputs.forward_loss + outputs.backward_loss) / 2)


@torch.no_grad()
def test_padding_side_does_not_move_the_probabilities():
    model = language_model()
    right, left = model.log_probabilities(**batch(TEXT)), model.log_probabilities(**batch(TEXT, "left"))
    is_word = batch(TEXT)["labels"] >= 0
    torch.testing.assert_close(left.forward[batch(TEXT, "left")["labels"] >= 0], right.forward[is_word])
    torch.testing.assert_close(left.backward_begin, right.backward_begin)


@torch.no_grad()
def test_streams_of_whole_sentences_give_their_loss():
    # A window of one sentence with its boundaries is that sentence; only the boundary that begins it is certain.
    model, tokenizer, words = language_model(), word_tokenizer(), TEXT[1]
    ahead = ["<S>", *words, "</S>"]

    def stream(order: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.from_numpy(tokenizer.words_to_character_ids(order))
        return ids[None, :-1], torch.from_numpy(tokenizer.words_to_labels(order[1:]))[None]

    (forward_ids, labels), (backward_ids, backward_labels) = stream(ahead), stream(ahead[::-1])
    streams = model(forward_ids, labels=labels, backward_input_ids=backward_ids, backward_labels=backward_labels)
    sentence = model(**batch([words]))
    torch.testing.assert_close(streams.forward_loss, sentence.forward_loss)
    torch.testing.assert_close(streams.backward_loss, sentence.backward_loss)


@torch.no_grad()
def test_hidden_states_are_those_of_the_embedding_model():
    model, inputs = language_model(), batch(TEXT)
    found = model(**inputs, output_hidden_states=True).hidden_states
    expected = model.elmo(inputs["input_ids"], output_hidden_states=True).hidden_states
    assert len(found) == 3
    torch.testing.assert_close(found, expected)
    assert model(**inputs).hidden_states is None
    nested = inputs["input_ids"].unsqueeze(1)
    torch.testing.assert_close(
        model(nested, output_hidden_states=True).hidden_states, tuple(layer.unsqueeze(1) for layer in expected)
    )

    # Two sentences of a length as streams, of which the second reads the other way round.
    ids = inputs["input_ids"][:2, :4]
    whole = model(ids, output_hidden_states=True, backward_input_ids=ids.flip(1)).hidden_states
    layers, _ = model.elmo.read_streams(ids, ids.flip(1))
    assert whole[-1].shape == (2, 4, model.config.hidden_size)
    torch.testing.assert_close(whole[-1][1], layers[-1].view(4, 2, -1)[:, 1])


@torch.no_grad()
def test_state_is_carried_from_window_to_window():
    model, tokenizer = language_model(), word_tokenizer()
    words = ["<S>", *TEXT[0], "</S>", "<S>", *TEXT[1], "</S>"]
    ids = torch.from_numpy(tokenizer.words_to_character_ids(words))[None]
    whole, states = model.elmo.read_streams(ids, ids)
    first, between = model.elmo.read_streams(ids[:, :5], ids[:, :5])
    second, after = model.elmo.read_streams(ids[:, 5:], ids[:, 5:], between)
    torch.testing.assert_close(torch.cat([first[-1], second[-1]]), whole[-1])
    torch.testing.assert_close(after, states)


def test_streams_are_without_padding():
    model = language_model()
    ids = batch(TEXT)["input_ids"]
    with pytest.raises(ValueError, match="without padding"):
        model.elmo.read_streams(ids, ids)
    with pytest.raises(ValueError, match="the same shape"):
        model.elmo.read_streams(ids, ids[:, 1:])


def test_training_uses_the_sampled_loss_and_evaluation_the_exact_one():
    torch.manual_seed(0)
    sampling, exact = language_model(num_sampled_words=4), language_model()
    inputs = batch(TEXT)
    torch.testing.assert_close(sampling(**inputs).loss, exact(**inputs).loss)
    sampling.train()
    exact.train()
    assert sampling(**inputs).loss < 0.9 * exact(**inputs).loss


def test_every_weight_is_trained_and_there_is_no_mix():
    model = language_model(num_sampled_words=4, bilm_dropout=0.1).train()
    model(**batch(TEXT)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not any("scalar_mixes" in name for name in model.state_dict())


def test_dropout_acts_in_training_alone():
    model, inputs = language_model(bilm_dropout=0.5), batch(TEXT)
    assert model(**inputs).loss == model(**inputs).loss
    model.train()
    assert model(**inputs).loss != model(**inputs).loss


def test_substitutes_are_the_product_of_both_directions():
    model, words = language_model(), TEXT[1]
    inputs = batch([words, TEXT[2]])
    labels = inputs.pop("labels")
    scores = model.substitutes(**inputs, columns=torch.tensor([2, 0]))
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2))
    # The product at the word that stands there, relative to one other, by hand.
    alone = [model.log_probabilities(**batch([[*words[:2], word, *words[3:]]])) for word in ("was", "rain")]
    (of_was, of_rain) = (scored.forward[0, 2] + scored.backward[0, 2] for scored in alone)
    was, rain = word_tokenizer().words_to_labels(["was", "rain"])
    assert labels[0, 2] == was
    torch.testing.assert_close(scores[0, was] - scores[0, rain], of_was - of_rain)


def test_substitutes_of_padding_are_refused():
    inputs = batch([TEXT[1], TEXT[2]])
    del inputs["labels"]
    with pytest.raises(ValueError, match="points to padding"):
        language_model().substitutes(**inputs, columns=torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="one column of each of 2 sentences"):
        language_model().substitutes(**inputs, columns=torch.tensor([2, 99]))


def test_labels_outside_the_vocabulary_are_refused():
    inputs = batch(TEXT)
    inputs["labels"][0, 0] = 15
    with pytest.raises(ValueError, match=r"^`labels` must be from -100 to 14, was: from 0 to 15\.$"):
        language_model()(**inputs)
    with pytest.raises(ValueError, match="one word per column"):
        language_model()(**{**inputs, "labels": inputs["labels"][:, 1:]})


def test_folder_serves_the_embedding_model_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    model = language_model()
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedding = AutoModel.from_pretrained(tmp_path)
    assert type(embedding) is ElmoModel
    assert not caplog.records
    assert "softmax" not in capsys.readouterr().err
    inputs = batch(TEXT)
    labels = inputs.pop("labels")
    layers = [one(**inputs, output_hidden_states=True) for one in (embedding, model.elmo)]
    torch.testing.assert_close(layers[0].hidden_states, layers[1].hidden_states)
    # Without a mix, what the language model reads is the top.
    assert torch.equal(layers[1].last_hidden_state, layers[1].hidden_states[-1])
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(again) is ElmoForPreTraining
    torch.testing.assert_close(again(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss)
    assert AutoTokenizer.from_pretrained(tmp_path).word_vocabulary == word_tokenizer().word_vocabulary


@torch.no_grad()
def test_initial_state_is_where_sentences_start_and_is_saved(tmp_path: Path):
    model, inputs = language_model(), batch(TEXT)
    states = model(**inputs).lstm_states
    warm = tuple(state.mean(0, keepdim=True).expand_as(state).contiguous() for state in states)
    expected = model(**inputs, lstm_states=warm).loss
    cold = model(**inputs).loss
    model.elmo.set_initial_state(states)
    torch.testing.assert_close(model(**inputs).loss, expected)
    assert abs(expected - cold) > 1e-4
    model.save_pretrained(tmp_path)
    again = ElmoForPreTraining.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**inputs).loss, expected)
    zeros = tuple(map(torch.zeros_like, states))
    torch.testing.assert_close(again(**inputs, lstm_states=zeros).loss, cold)


def test_sentences_of_a_corpus_are_batches_of_the_model(tmp_path: Path):
    dataset = BilmSentences(corpus(tmp_path / "corpus", TEXT), word_tokenizer())
    rows = [dataset[index] for index in range(len(dataset))]
    model = language_model()
    alone = [model(row["input_ids"][None], labels=row["labels"][None]).forward_loss for row in rows]
    weights = torch.tensor([len(words) + 1.0 for words in TEXT])
    torch.testing.assert_close(model(**batch(TEXT)).forward_loss, (torch.stack(alone) * weights).sum() / weights.sum())


def test_untrained_model_expects_every_word_alike():
    model = ElmoForPreTraining(language_model().config).eval()
    # Softmax weights have a standard deviation of 1 / sqrt(width): logits are small against the differences of words.
    assert abs(model(**batch(TEXT)).loss.item() - math.log(15)) < 0.2
