"""Asking contestants more than the held-out rows: the same numbers as transformers alone, and nothing asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.evaluations import label_examples
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import Events
from luthier.eval import ask
from luthier.eval.ask import Desk, Model, Question
from luthier.eval.baseline import Baseline
from luthier.eval.kept import Kept
from luthier.eval.respondent import Respondent
from luthier.eval.rows import choose
from luthier.eval.voice import Choice, Continued, Plain, Voice
from luthier.text.messages import Message

QUESTION = Question(normalise="sum", max_new_tokens=8, dtype="float32", likelihood=False)
ASKED = [(Message(role="user", content=f"Where is parcel {number}?"),) for number in range(5)]


@pytest.fixture
def model(base: Artifact) -> Model:
    return Model(base, QUESTION, Desk(), name="base", title="the base model")


@pytest.fixture
def respondent(model: Model, labels: Artifact, tmp_path: Path) -> Respondent:
    return of(model, labels, tmp_path)


def of(voice: Voice, data: Artifact, folder: Path) -> Respondent:
    events = Events([].append).of("report")
    return Respondent(voice=voice, task=choose(data, "test", None), kept=Kept(folder), events=events)


def by_transformers(base: Artifact, before: Sequence[int], option: Sequence[int]) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *option]])).logits[0, len(before) - 1 : -1]
    return float(torch.log_softmax(logits.double(), -1)[range(len(option)), list(option)].sum())


@pytest.mark.parametrize("before", ["", "Where is the", "Where is the "])
def test_plain_texts_have_the_likelihood_that_transformers_gives(
    respondent: Respondent, base: Artifact, before: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    options = ("parcel", "old courier of my invoice") if before.endswith(" ") else (" parcel", " courier, please")
    found = respondent.likelihood([Continued(before, options)])[0]
    for option, (logprob, tokens) in zip(options, found, strict=True):
        ids = tokenizer(before + option, add_special_tokens=False)["input_ids"]
        head = tokenizer(before.rstrip(), add_special_tokens=False)["input_ids"]
        start = head or [tokenizer.bos_token_id]
        rest = ids[len(head) :]
        assert tokens == len(rest)
        assert logprob == pytest.approx(by_transformers(base, start, rest), abs=1e-4)


def test_spaces_before_a_continuation_belong_to_it(respondent: Respondent) -> None:
    ((one,), (other,)) = respondent.likelihood(
        [Continued("Where is the ", ("parcel",)), Continued("Where is the", (" parcel",))]
    )
    assert one.tokens == other.tokens
    assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_a_special_token_that_somebody_typed_is_text(respondent: Respondent) -> None:
    ((found,),) = respondent.likelihood([Continued("It ends with", (" <|im_end|>",))])
    assert found.tokens > 3


def test_answers_are_scored_after_a_conversation(respondent: Respondent) -> None:
    one, other = respondent.score([Choice(ASKED[0], ("yes", "no")), Choice(ASKED[1], ("no", "maybe", "yes"))])
    assert [len(one), len(other)] == [2, 3]
    assert all(likelihood.logprob < 0 and likelihood.tokens > 0 for likelihood in (*one, *other))
    assert respondent.score([Choice(ASKED[0], ("no", "yes"))])[0] == [
        pytest.approx(one[1], abs=1e-4),
        pytest.approx(one[0], abs=1e-4),
    ]


def test_a_begun_answer_is_gone_on_with(respondent: Respondent) -> None:
    """What is written after the first half of the model's own answer is the second half."""
    whole = respondent.write(ASKED[:1], 12)[0]
    begun = respondent.write(ASKED[:1], 5)[0]
    rest = respondent.resume([(*ASKED[0], Message(role="assistant", content=begun.text))], 7)[0]
    assert whole.tokens == 12
    assert begun.text + rest.text == whole.text


def test_finished_chunks_are_not_asked_again(
    respondent: Respondent, labels: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "CHUNK", 2)
    sizes: list[int] = []
    write = Model.write

    def counted(self: Model, asked: Sequence[tuple[Message, ...]], max_new_tokens: int) -> object:
        sizes.append(len(asked))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return write(self, asked, max_new_tokens)

    monkeypatch.setattr(Model, "write", counted)
    with pytest.raises(KeyboardInterrupt):
        respondent.write(ASKED, 3)
    found = respondent.write(ASKED, 3)
    assert sizes == [2, 2, 1, 1]
    assert of(respondent.voice, labels, tmp_path).write(ASKED, 3) == found
    assert len(sizes) == 4


def test_rows_that_are_not_held_out_are_answered_alike(respondent: Respondent) -> None:
    rows = label_examples(12)
    replies = respondent.answer(rows)
    assert [reply.prediction for reply in replies] == [
        reply.prediction for reply in respondent.voice.answer(rows, respondent.task)
    ]


def test_a_baseline_answers_and_does_nothing_else(labels: Artifact, tmp_path: Path) -> None:
    rows = label_examples(30)
    plain = of(Plain(Baseline.parse("tfidf"), rows), labels, tmp_path)
    assert not plain.is_model
    right = [reply.prediction == row.label for reply, row in zip(plain.answer(rows), rows, strict=True)]
    assert sum(right) > 25
    for ask_it in (
        lambda: plain.score([Choice(ASKED[0], ("yes",))]),
        lambda: plain.likelihood([Continued("", ("yes",))]),
        lambda: plain.write(ASKED, 2),
        lambda: plain.resume(ASKED, 2),
    ):
        with pytest.raises(ModelError, match="TF-IDF with logistic regression cannot"):
            ask_it()
