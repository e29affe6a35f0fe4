"""What every plain baseline promises: an answer for every row, sound scores, the same answers each time."""

from __future__ import annotations

import math

import pytest

from documented import undescribed
from eval.evaluations import example, label_examples, text_examples
from luthier.chat.messages import Example, answer_of, user_text_of
from luthier.core.component import components_by_kind
from luthier.eval.baseline import Baseline
from luthier.eval.defaults import choose_default_baselines
from luthier.eval.task import OPTIONS, HeldOutTask, TaskKind, label_preference_pairs

KINDS = components_by_kind(Baseline)


def task(kind: TaskKind, *, pairs: bool = False) -> HeldOutTask:
    """Some held-out rows."""
    if pairs:
        examples, _ = label_preference_pairs(paired()[60:])
        return HeldOutTask(kind=kind, split="test", examples=tuple(examples), available=30, options=OPTIONS, pairs=True)
    examples = label_examples()[60:] if kind == "label" else text_examples()[28:]
    options = {label: label for label in sorted({one.label for one in examples if one.label})}
    return HeldOutTask(kind=kind, split="test", examples=tuple(examples), available=len(examples), options=options)


def paired() -> list[Example]:
    """Tickets with the right answer and a longer one."""
    return [
        one.model_copy(update={"label": None, "meta": {"rejected": f"not {one.label}" if at % 4 else "?"}})
        for at, one in enumerate(label_examples())
    ]


def cases() -> list[tuple[str, TaskKind]]:
    """Each baseline with each task that it can do."""
    return [(kind, able) for kind in sorted(KINDS) for able in sorted(KINDS[kind].tasks)]


@pytest.mark.parametrize(("kind", "able"), cases())
@pytest.mark.parametrize("learnt", [0, 1, 60])
def test_answers(kind: str, able: TaskKind, learnt: int) -> None:
    baseline, asked = Baseline.parse(kind), task(able, pairs=KINDS[kind].pairs)
    rows = paired() if KINDS[kind].pairs else label_examples() if able == "label" else text_examples()
    train = rows[:learnt]
    replies = baseline.answer(train, asked)
    assert replies == baseline.answer(train, asked)
    assert len(replies) == len(asked.examples)
    for reply in replies:
        if able == "label":
            assert reply.scores is not None
            assert set(reply.scores) == set(asked.labels)
            assert sum(map(math.exp, reply.scores.values())) == pytest.approx(1, abs=1e-3)
            assert reply.scores[reply.prediction] == max(reply.scores.values())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_documented(kind: str) -> None:
    assert len(KINDS[kind].title) > 5
    assert len(KINDS[kind].summary()) > 20
    assert undescribed(KINDS[kind]) == []


def test_tfidf_learns_from_words() -> None:
    asked = task("label")
    replies = Baseline.parse("tfidf").answer(label_examples()[:60], asked)
    assert sum(map(bool, asked.correct(replies))) > 20


def test_nearest_gives_the_answer_of_the_most_similar_question() -> None:
    asked = task("text")
    parcel = example("Where is the parcel, please", "On its way.", None, 1)
    known = [parcel, example("Fix my invoice", "Done.", None, 2)]
    wanted = HeldOutTask(
        kind="text",
        split="test",
        examples=(example("where is my parcel", "", None, 3), example("the invoice, fix it", "", None, 4)),
        available=2,
        options={},
    )
    found = Baseline.parse("nearest")
    assert [reply.prediction for reply in found.answer(known, wanted)] == ["On its way.", "Done."]
    assert found.answer(known[::-1], wanted) == found.answer(known, wanted)
    assert [reply.prediction for reply in found.answer(asked.examples, asked)] == asked.references
    runs = [Baseline.parse({"kind": "nearest", "words": words}).answer(known, wanted) for words in (1, 3)]
    assert all(len(one) == 2 for one in runs)


def test_nearest_agrees_with_scikit_learns_neighbours() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    train, asked = text_examples(40)[:28], task("text")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    store = vectorizer.fit_transform([user_text_of(one) for one in train])
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(store)
    apart, place = search.kneighbors(vectorizer.transform([user_text_of(one) for one in asked.examples]))
    replies = Baseline.parse("nearest").answer(train, asked)
    told = {answer_of(one): user_text_of(one) for one in train}
    for reply, one, far, best in zip(replies, asked.examples, apart[:, 0], place[:, 0], strict=True):
        mine = vectorizer.transform([told[reply.prediction]])
        its = vectorizer.transform([user_text_of(one)])
        assert 1 - float((mine @ its.T).toarray()[0, 0]) == pytest.approx(far, abs=1e-9), (best, reply)


DIALOGUE = "Ann: Hi there!\nBen: Hello. How are you?\nAnn: Fine; I lost my key.\nBen: Oh no. Where?\nAnn: At work."


@pytest.mark.parametrize(
    ("text", "sentences", "lead"),
    [
        ("One. Two? Three! Four.", 3, "One. Two? Three!"),
        ("He said “no.” Then he left. It rained.", 1, "He said “no."),
        (DIALOGUE, 2, "Ann: Hi there! Ben: Hello."),
        ("第一。第二！第三？第四。", 2, "第一。 第二！"),
        ("no end", 3, "no end"),
        ("", 3, ""),
    ],
)
def test_lead_takes_the_first_sentences(text: str, sentences: int, lead: str) -> None:
    asked = HeldOutTask(kind="text", split="test", examples=(example(text, "x", None, 1),), available=1, options={})
    (reply,) = Baseline.parse({"kind": "lead", "sentences": sentences}).answer([], asked)
    assert reply.prediction == lead


def test_lead_stands_beside_summaries_only() -> None:
    rows = (example(DIALOGUE, "Ann lost it.", None, 1),)
    long = HeldOutTask(kind="text", split="test", examples=rows, available=1, options={})
    assert [one.kind for one in choose_default_baselines(long)] == ["lead", "nearest"]
    classes = HeldOutTask(
        kind="label", split="test", examples=rows, available=1, options={"Ann lost it.": "Ann lost it."}
    )
    assert [one.kind for one in choose_default_baselines(classes)] == ["majority", "tfidf"], (
        "long texts may have classes, too"
    )
    assert [one.kind for one in choose_default_baselines(task("text"))] == ["nearest"]
    assert [one.kind for one in choose_default_baselines(task("label"))] == ["majority", "tfidf"]


def test_length_prefers_what_people_did_more_often() -> None:
    asked = task("label", pairs=True)
    learnt = Baseline.parse("length").answer(paired()[:60], asked)
    assert sum(map(bool, asked.correct(learnt))) == sum(at % 4 > 0 for at in range(60, 90))
    assert {round(math.exp(max(reply.scores.values())), 2) for reply in learnt if reply.scores} == {0.74}
