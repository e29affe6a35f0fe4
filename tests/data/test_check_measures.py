"""The measures of checks agree with other people's implementations, and with curves and tables that are known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import yaml

from luthier.artifacts.dataset import MADE
from luthier.chat.messages import Message, ToolCall
from luthier.data.check import format_percent
from luthier.data.checks.answers import AnswerQuality
from luthier.data.checks.bias_terms import TERMS, BiasTerms
from luthier.data.checks.distance import EmbeddingOutliers, mean_neighbor_distance
from luthier.data.checks.enough import LearningCurve
from luthier.data.checks.groups import GroupBalance, cramers_v
from luthier.data.checks.label_errors import LabelErrors
from luthier.data.checks.lengths import LengthOutliers, robust_z
from luthier.data.checks.profile import DatasetProfile
from luthier.data.checks.shift import DistributionShift
from luthier.data.ops.length import LengthOperator
from luthier.data.validate.context import CheckData, CheckRow
from luthier.models.text_classifier import compute_tfidf_features, measure_separability
from test_every_check import clean_rows
from tests.linear import assert_linear


def _row(number: int, prompt: str, answer: str, label: str | None = None, group: str | None = None) -> CheckRow:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return CheckRow(f"{number:016x}", "train", messages, label, group)


def test_association_of_known_tables() -> None:
    assert cramers_v(np.array([[50, 0], [0, 50]])) == pytest.approx(1.0, abs=0.01)
    assert cramers_v(np.array([[25, 25], [25, 25]])) == 0.0
    assert cramers_v(np.array([[10, 0], [5, 0]])) == 0.0
    from scipy.stats.contingency import association

    random = np.random.default_rng(1)
    large = random.integers(500, 2000, size=(3, 4))
    assert cramers_v(large) == pytest.approx(association(large), abs=0.01)


def test_groups_of_which_nothing_is_wrong_are_no_warning() -> None:
    """Even groups of few rows, which say nothing of the class."""
    random = np.random.default_rng(5)
    for groups, classes, each in ((30, 5, 3), (50, 10, 10), (5, 5, 12), (3, 3, 10)):
        for _ in range(10):
            labels = [f"class {one}" for one in random.integers(classes, size=groups * each)]
            rows = [_row(n, f"text {n}", label, label, f"g{n % groups}") for n, label in enumerate(labels)]
            found = [one.finding for one in GroupBalance().look(CheckData(rows[each // 2 :], task="label"))]
            assert [one.severity for one in found] == ["info", "info"], (groups, found[1].sentence)


def test_copies_of_a_row_are_no_evidence() -> None:
    """Of a letter that stands ten times, one counts; as letters of their own they would be serious."""

    def letters(copies: bool) -> CheckData:
        kinds = (("she", "care", "web"), ("he", "engine", "mail"))
        told = [
            (f"{who} asks {n % 4 if copies else n}", label, group) for n in range(40) for who, label, group in kinds
        ]
        rows = [_row(at, text, label, label, group) for at, (text, label, group) in enumerate(told)]
        return CheckData(rows, task="label")

    for copies, severity, counted in ((True, "info", 8), (False, "serious", 80)):
        data = letters(copies)
        assert [one.finding.severity for one in BiasTerms().look(data)] == [severity]
        assert [*GroupBalance().look(data)][1].finding.numbers["groups.association"].rows == counted


def test_the_area_is_scikit_learns_and_its_interval_holds() -> None:
    from sklearn.metrics import roc_auc_score

    from luthier.models.text_classifier import _area

    random = np.random.default_rng(2)
    scores, codes = random.normal(size=300).round(1), random.integers(0, 2, 300)
    assert _area(scores, codes) == pytest.approx(roc_auc_score(codes, scores))
    one, other = ["red green blue"] * 40, ["one two three"] * 40
    assert measure_separability(compute_tfidf_features([*one, *other]), 40, 40, 0)[0] == 1.0
    words = [" ".join(random.choice([*"abcdefgh"], 6)) for _ in range(300)]
    _, low, high = measure_separability(compute_tfidf_features(words), 150, 150, 0)
    assert low < 0.5 < high


def test_distance_to_neighbours_is_scikit_learns() -> None:
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(3)
    points = random.normal(size=(200, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = NearestNeighbors(n_neighbors=6, metric="cosine").fit(points).kneighbors(points)[0][:, 1:].mean(axis=1)
    assert mean_neighbor_distance(points, 5, piece=64) == pytest.approx(found, abs=1e-4)
    assert mean_neighbor_distance(points[:1], 5).tolist() == [0.0]


def test_robust_scores_find_one_among_equals() -> None:
    scores = robust_z(np.array([5.0] * 20 + [50.0]))
    assert scores[-1] > 5
    assert (scores[:-1] == 0).all()


def test_a_log_odds_ratio_is_scipys() -> None:
    from scipy.stats.contingency import odds_ratio

    cells = [("she", "care", 40), ("she", "engine", 10), ("he", "care", 12), ("he", "engine", 45)]
    rows = [
        _row(100 * at + number, f"{word} writes letter {number}", label, label)
        for at, (word, label, count) in enumerate(cells)
        for number in range(count)
    ]
    (found,) = BiasTerms().look(CheckData(rows, task="label"))
    number = found.finding.numbers["bias.log_odds"]
    told = odds_ratio([[40, 10], [12, 45]], kind="sample")
    assert number.value == pytest.approx(np.log(told.statistic), abs=0.1)
    low, high = (np.log(end) for end in told.confidence_interval(0.95))
    assert number.ends[0] == pytest.approx(low, abs=0.2), "one pair in four is corrected by a little"
    assert number.ends[1] == pytest.approx(high, abs=0.2)


def test_terms_belong_to_one_group_only() -> None:
    words = [word for groups in TERMS.values() for told in groups.values() for word in told.split()]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("As an AI language model, I do not do that.", "refused"),
        ("I’m sorry, but I can’t help with that.", "refused"),
        ("...", "empty"),
        ("Open the lid and turn the wheel until the light goes", "cut"),
        ("again and again " * 9, "repeated"),
        ("how do I open the lid of the box", "echo"),
        ("Open the lid. You may say: I am sorry, I cannot.", ""),
        ("Yes", ""),
    ],
)
def test_answers_that_teach_nothing(answer: str, fault: str) -> None:
    rows = [_row(number, f"question {number}", f"This is answer {number}, a whole one.") for number in range(60)]
    (found,) = AnswerQuality().look(
        CheckData([*rows, _row(99, "how do I open the lid of the box", answer)], task="text")
    )
    assert [note for _, _, note in found.marks] == ([fault] if fault else [])


def test_an_answer_that_calls_a_tool_teaches_that() -> None:
    call = ToolCall(name="weather", arguments={"city": "Ulm"})
    rows = [_row(number, f"Will it rain on day {number}?", "") for number in range(8)]
    called = [replace(row, messages=(row.messages[0], Message(role="assistant", tool_calls=(call,)))) for row in rows]
    (found,) = AnswerQuality().look(CheckData([*called, *rows[:2]], task="text"))
    assert found.finding.numbers["answers.bad"].value == 0.2


def test_patterns_take_linear_time() -> None:
    """Adversarial strings that grow tenfold take about tenfold time, never a hundredfold."""

    def look(text: str) -> None:
        data = CheckData([_row(number, text, text) for number in range(2)], task="text")
        list(AnswerQuality().look(data))
        list(BiasTerms().look(data))

    for piece in ("i'm sorry, but i ", "!", "a", "she "):
        assert_linear(look, piece, 40_000)


@pytest.mark.parametrize("kind", ["question", "document", "script without spaces"])
def test_the_limit_that_is_named_leaves_out_the_long_rows_and_no_other(kind: str) -> None:
    """Following the finding once dropped every document as too short, and measured Chinese by its spaces."""
    texts = [f"word {'again ' * (20 + n % 9)}{n}" if n % 40 else "late " * 900 for n in range(120)]
    if kind == "script without spaces":
        texts = [("好的" * (10 + n % 9) if n % 40 else "好" * 900) + " API" * (n % 4) for n in range(120)]
    messages = [
        (Message(role="user", content=text), Message(role="assistant", content="yes"))
        if kind != "document"
        else (Message(role="assistant", content=text),)
        for text in texts
    ]
    rows = [CheckRow(f"{at:016x}", "train", said) for at, said in enumerate(messages)]
    [found] = LengthOutliers().look(CheckData(rows, task="text"))
    [operator] = yaml.safe_load(found.finding.mend)["ops"]
    assert operator.pop("kind") == "length"
    drops = LengthOperator.model_validate(operator).apply([row.row(at) for at, row in enumerate(rows)]).drops
    assert sorted(drops) == [0, 40, 80]
    assert {rows[at].id for at in drops} == {row.id for row, _, _ in found.marks}


def test_one_row_is_spoken_of_as_one() -> None:
    texts = [f"the parcel {n % 7} is late again {n}" for n in range(60)]
    rows = [_row(at, "she has paid " * 300 if at == 7 else text, "yes", "a") for at, text in enumerate(texts)]
    data = CheckData(rows, task="label")
    [length], [named] = LengthOutliers().look(data), BiasTerms().look(data)
    assert length.finding.sentence.startswith("1 row of 60 (1.7 %) is far from the usual length")
    assert named.finding.sentence.startswith("1 of 60 rows names a group of people")


def _copied(rows: Sequence[CheckRow], times: int) -> list[CheckRow]:
    """Training rows several times over, as `mix` repeats and `augment` makes them."""
    made = [
        replace(row, id=f"{number:04x}{row.id[4:]}", meta={MADE: {"by": "mix", "parents": [row.id]}})
        for number in range(1, times)
        for row in rows
        if row.split == "train"
    ]
    return [*rows, *made]


def test_wrong_labels_are_found_where_rows_stand_several_times() -> None:
    """A classifier that had seen the copy of a row once knew its wrong label by heart: of 40, none was found."""
    planted = LabelErrors().plant(_drawn(clean_rows("label")))
    training = {row.id for row in planted.rows if row.id in planted.ids and row.split == "train"}
    found = []
    for times in (1, 4):
        [one] = LabelErrors().look(CheckData(_copied(planted.rows, times), task="label"))
        found.append(len({row.id for row, _, _ in one.marks} & training))
    assert found[1] >= found[0] >= len(training) / 2


def test_copies_of_training_rows_are_no_shift() -> None:
    rows = _drawn(clean_rows("label"))
    [copied] = DistributionShift().look(CheckData(_copied(rows, 4), task="label"))
    assert copied.finding.severity == "info"
    twice = [replace(row, id=f"f{row.id[1:]}") for row in rows if row.split == "train"]
    [same] = DistributionShift().look(CheckData([*rows, *twice], task="label"))
    assert same.finding.severity == "info", "texts that came several times are known again, too"


def test_what_tells_made_rows_is_no_column_of_the_source() -> None:
    """`augment` was once warned of: its own word on where rows come from is empty in those that were there before."""
    rows = _copied([replace(row, meta={"channel": "web"}) for row in clean_rows("label")], 2)
    found = {one.finding.name: one.finding for one in DatasetProfile().look(CheckData(rows, task="label"))}
    assert found["profile.columns"].severity == "info"
    assert "augmented" not in str(found["profile.columns"])


def test_a_curve_is_drawn_of_rows_that_somebody_gathered() -> None:
    rows = LearningCurve().plant(_drawn(clean_rows("label"))).rows
    [plain] = LearningCurve().look(CheckData(rows, task="label"))
    [copied] = LearningCurve().look(CheckData(_copied(rows, 4), task="label"))
    gains = [one.finding.numbers["enough.gain"].value for one in (plain, copied)]
    assert abs(gains[0] - gains[1]) < 0.01, "with copies, an eighth of the rows once held half of what there is"
    assert "With 359 gathered training rows" in copied.finding.sentence


def test_copies_are_no_company_for_a_row_that_nothing_else_is_like() -> None:
    rows = _drawn(clean_rows("label"))
    odd = rows[0].saying(prompt="qzv xkr wwp jjq")
    copies = [replace(odd, id=f"{at:04x}{odd.id[4:]}") for at in range(7)]
    [found] = EmbeddingOutliers().look(CheckData([*rows[1:], *copies], task="label"))
    assert {row.id for row, _, _ in found.marks} == {row.id for row in copies}


def _drawn(rows: Sequence[CheckRow]) -> list[CheckRow]:
    """The same rows, held out by lot."""
    chance = random.Random(5)
    return [replace(row, split="test" if chance.random() < 0.25 else "train") for row in rows]


def test_only_all_is_a_hundred_per_cent() -> None:
    assert [format_percent(value) for value in (0, 0.0123, 0.5, 0.994, 0.996, 0.99999, 1)] == [
        "0 %", "1.2 %", "50 %", "99 %", "over 99 %", "over 99 %", "100 %",
    ]  # fmt: skip
