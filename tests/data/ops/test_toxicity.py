"""Rude rows are scored by word lists or by a classifier, and token windows are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from luthier.chat.messages import Message
from luthier.core.errors import RecipeError
from luthier.data.ops.tokens import TokenCountOperator
from luthier.data.ops.toxicity import ToxicityOperator
from luthier.data.row import Row

WORDS = ["[UNK]", "[PAD]", "you", "are", "a", "fine", "fool", "yes"]


def _row(prompt: str, answer: str = "yes") -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)


def test_listed_words_are_counted_and_scored() -> None:
    outcome = ToxicityOperator().apply(
        [_row("this is bullshit"), _row("the assessment of Scunthorpe"), _row("\ud800 fine")]
    )
    assert outcome.attributes["words"] == [1, 0, 0]
    assert outcome.attributes["score"] == [pytest.approx(1 / 3, abs=1e-4), 0, 0]
    assert outcome.drops == {}


def test_rude_rows_are_dropped_when_asked() -> None:
    rows = [_row("this is bullshit"), _row("all fine"), _row("all fine", "bullshit")]
    assert ToxicityOperator(action="drop").apply(rows).drops[0].reason == "toxic: 0.3333, expected at most 0"
    assert set(ToxicityOperator(action="drop").apply(rows).drops) == {0, 2}
    assert set(ToxicityOperator(action="drop", of="answer").apply(rows).drops) == {2}
    assert set(ToxicityOperator(action="drop", max=0.5).apply(rows).drops) == {2}
    assert set(ToxicityOperator(action="drop", ignore=("bullshit",)).apply(rows).drops) == set()


def test_lists_are_chosen_by_language() -> None:
    rows = [_row("so eine Scheiße")]
    assert ToxicityOperator(languages=("de",)).apply(rows).attributes["words"] == [1]
    assert ToxicityOperator(languages=("en",)).apply(rows).attributes["words"] == [0]
    with pytest.raises(ValidationError, match="no list for language 'xx'"):
        ToxicityOperator(languages=("xx",))


def _tokenizer(folder: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_classifier_gives_its_worst_class(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    _tokenizer(tmp_path)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), id2label={0: "neutral", 1: "toxic"}, **sizes)
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    operator = ToxicityOperator(model="model").at(tmp_path.parent)
    assert operator.model == str(tmp_path.parent / "model")
    operator = ToxicityOperator(model=str(tmp_path), of="prompt", max=1)
    rows = [_row("you are a fool"), _row("you are fine"), _row("")]
    scores = operator.apply(rows).attributes["score"]
    with torch.inference_mode():
        ids = torch.tensor([[WORDS.index(word) for word in ["you", "are", "a", "fool"]]])
        wanted = model.eval()(input_ids=ids).logits.softmax(1)[0, 1].item()
    assert scores[0] == pytest.approx(wanted, abs=1e-3)
    assert scores[2] == 0
    assert scores == [operator.apply([row]).attributes["score"][0] for row in rows]
    assert operator.fingerprint(tmp_path) != ToxicityOperator().fingerprint(tmp_path)
    with pytest.raises(RecipeError, match="cannot load"):
        ToxicityOperator(model=str(tmp_path / "none")).apply(rows)


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    named = TokenCountOperator(tokenizer="tok", min=3, max=4).at(_tokenizer_in(tmp_path, "tok"))
    outcome = named.apply([_row("you are a fool"), _row("you are"), _row("fool", "")])
    assert outcome.attributes["tokens"] == [5, 3, 1]
    assert outcome.drops[0].reason == "too many tokens: 5, expected at most 4"
    assert outcome.drops[2].reason == "too few tokens: 1, expected at least 3"
    assert TokenCountOperator().apply([_row("abcdefgh", "ijk")]).attributes["tokens"] == [3]
    assert TokenCountOperator(tokenizer="tok").fingerprint(tmp_path)
    with pytest.raises(RecipeError, match="cannot read a tokenizer"):
        TokenCountOperator(tokenizer="no.json").at(tmp_path).apply([_row("a")])
    with pytest.raises(ValidationError, match="lies below"):
        TokenCountOperator(min=3, max=2)


def _tokenizer_in(base: Path, name: str) -> Path:
    (base / name).mkdir()
    _tokenizer(base / name)
    return base
