"""Probes of bias on voices whose bias is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from eval.evaluations import dataset, text_examples
from eval.probing import Said, bench_of, data_of
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError
from luthier.core.store import Store
from luthier.eval.probe import Probe, ProbeContext, ProbeMeasure
from luthier.eval.probes.coreference import load_winograd_schemas
from luthier.eval.probes.questions import UNKNOWN, build_bias_questions
from luthier.eval.probes.stereotypes import load_builtin_pairs

FAIR = Said("fair", lambda text: "billing")
SEXIST = Said("sexist", lambda text: "account" if "wife" in text or "sister" in text.lower() else "billing")


@pytest.fixture(scope="module")
def data(store: Store) -> Artifact:
    return data_of(store)


@pytest.fixture
def bench(data: Artifact, tmp_path: Path) -> ProbeContext:
    return bench_of(data, tmp_path, SEXIST, FAIR)


def by_name(probe: object, bench: ProbeContext) -> dict[tuple[str, str], ProbeMeasure]:
    found = Probe.parse(probe).measure(bench)
    return {(one.name, one.model): one for one in found}


def test_counterfactuals_count_flips_and_shifts(bench: ProbeContext) -> None:
    found = by_name("counterfactual", bench)
    flips = found["bias.flip_rate", "sexist"]
    assert (flips.value, flips.rows) == (1.0, 20)
    assert flips.low > 0.8
    assert found["bias.flip_rate", "fair"].value == 0.0
    assert found["bias.flip_rate", "fair"].high > 0.1  # twenty rows do not show that there is none
    assert found["bias.shift", "sexist"].value == pytest.approx(0.9 / 1.1 - 0.1 / 1.1)
    assert flips.against["fair"].low > 0.5
    assert {row.failed for row in bench.rows if row.model == "sexist"} == {True}
    row = bench.rows[0]
    assert re.search("swapped '(wife|husband)' for '(wife|husband)'", row.group)
    assert row.expected in bench.task.labels


def test_rows_about_nobody_are_not_asked(store: Store, labels: Artifact, tmp_path: Path) -> None:
    bench = bench_of(labels, tmp_path, FAIR)
    assert Probe.parse("counterfactual").measure(bench) == []
    assert "0 of 30 held-out rows name a group" in bench.notes[0]


def test_texts_shift_by_more_than_the_words_that_were_exchanged(store: Store, tmp_path: Path) -> None:
    rows = [
        one.model_copy(update={"messages": (one.messages[0], one.messages[1].model_copy(
            update={"content": f"My wife asks: {one.messages[1].content}"}), one.messages[2])})
        for one in text_examples(12)
    ]  # fmt: skip
    data = dataset(store, rows[:4], rows[4:])
    echo = Said("echo", lambda text: text)
    rude = Said("rude", lambda text: "Ask your husband." if "wife" in text else "With pleasure, of course!")
    found = by_name("counterfactual", bench_of(data, tmp_path, rude, echo))
    assert found["bias.shift", "echo"].value == 0.0
    assert found["bias.shift", "rude"].value > 0.4
    assert ("bias.flip_rate", "rude") not in found


def test_templates_tell_groups_apart(bench: ProbeContext) -> None:
    persons = {"women": ["my sister", "she"], "men": ["my brother", "he"]}
    found = by_name({"kind": "templates", "persons": persons}, bench)
    gap, flips = found["bias.template_gap", "sexist"], found["bias.template_flips", "sexist"]
    assert flips.value == 0.5
    assert gap.value == pytest.approx(0.5 * (1 / 1.2222222 - 0.1 / 1.1), abs=0.05)
    assert gap.detail["account for women"] > gap.detail["account for men"]
    assert found["bias.template_gap", "fair"].value == pytest.approx(0, abs=1e-9)
    only = by_name({"kind": "templates", "persons": persons, "label": "delivery"}, bench)
    assert only["bias.template_gap", "sexist"].value < 1e-9
    assert set(only["bias.template_gap", "fair"].detail) == {"delivery for women", "delivery for men"}
    asked = [row.prompt for row in bench.rows if row.probe == "templates"]
    assert asked[0][0].role == "system"
    assert asked[0][-1].content.startswith("My sister ")


def test_templates_refuse_what_cannot_be(bench: ProbeContext) -> None:
    with pytest.raises(ValidationError, match="equally many"):
        Probe.parse({"kind": "templates", "persons": {"a": ["x"], "b": ["y", "z"]}})
    with pytest.raises(ValidationError, match="in every sentence"):
        Probe.parse({"kind": "templates", "sentences": ["{person} is here.", "Nobody is."]})
    with pytest.raises(RecipeError, match="did you mean 'billing'"):
        Probe.parse({"kind": "templates", "label": "biling"}).measure(bench)


def test_stereotypes_are_counted_by_kind(bench: ProbeContext) -> None:
    found = by_name("stereotypes", bench)["bias.stereotype", "sexist"]  # the shorter sentence is the likelier
    shorter = [len(pair.more) < len(pair.less) for pair in load_builtin_pairs()]
    assert found.value == pytest.approx(sum(shorter) / len(shorter))
    assert found.rows == len(load_builtin_pairs()) == len({(pair.more, pair.less) for pair in load_builtin_pairs()})
    assert "gender" in found.detail


def test_a_file_of_pairs_is_read(bench: ProbeContext, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("sent_more,sent_less,bias_type\nA b.,A bcd.,x\nA bcd.,A b.,x\nA c.,A cde.,y\n")
    probe = Probe.parse({"kind": "stereotypes", "pairs": str(path), "min": 1})
    found = probe.measure(bench)[0]
    assert (found.value, found.rows, dict(found.detail)) == (pytest.approx(2 / 3), 3, {"x": 0.5, "y": 1.0})
    before = probe.fingerprint(tmp_path)
    path.write_text("sent_more,bias_type\nA b.,x\n")
    assert probe.fingerprint(tmp_path) != before
    with pytest.raises(RecipeError, match="no column 'sent_less'"):
        probe.measure(bench)
    with pytest.raises(RecipeError, match="no such file"):
        Probe.parse({"kind": "stereotypes", "pairs": "none.csv"}).measure(bench)


def test_questions_are_balanced() -> None:
    asked = build_bias_questions()
    clear = [one for one in asked if one.context == "disambiguated"]
    assert len(asked) == 3 * (len(asked) - len(clear))
    assert sum(one.right == one.biased for one in clear) == len(clear) / 2
    assert sum(one.right == 0 for one in clear) == len(clear) / 2
    assert {one.right for one in asked if one.context == "ambiguous"} == {2}
    assert len({one.row for one in asked}) == len(asked)
    assert not [one.text for one in asked if "{" in one.text]


def answering(name: str, how: str) -> Said:
    """Who answers every question rightly, as the prejudice has it, or that it cannot be told."""
    answers = {one.text: one for one in build_bias_questions()}

    def score(text: str, option: str) -> float:
        one = answers.get(text)
        place = {"right": one.right, "biased": one.biased, "unknown": 2}[how] if one else 0
        return 0.0 if one and one.options[place] == option else -5.0

    return Said(name, lambda text: "billing", score)


def test_questions_have_the_scores_of_bbq(data: Artifact, tmp_path: Path) -> None:
    voices = [answering(how, how) for how in ("right", "biased", "unknown")]
    found = by_name("questions", bench_of(data, tmp_path, *voices))
    scores = {
        how: [round(found[f"bias.questions_{what}", how].value, 6) for what in ("open", "clear", "accuracy")]
        for how in ("right", "biased", "unknown")
    }
    assert scores["right"] == [0.0, 0.0, 1.0]
    assert scores["biased"] == [1.0, 1.0, round(1 / 3, 6)]
    assert scores["unknown"] == [0.0, 0.0, round(1 / 3, 6)]
    assert UNKNOWN in build_bias_questions()[0].options


def test_coreference(data: Artifact, tmp_path: Path) -> None:
    answers = {one.text: one for one in load_winograd_schemas()}
    assert len(answers) == len(load_winograd_schemas())

    def right(text: str, option: str) -> float:
        return 0.0 if text in answers and answers[text].options[answers[text].right] == option else -5.0

    def by_pronoun(text: str, option: str) -> float:
        return 0.0 if text in answers and answers[text].options[answers[text].pronoun == "she"] == option else -5.0

    voices = [Said("right", lambda text: "billing", right), Said("by pronoun", lambda text: "billing", by_pronoun)]
    found = by_name("coreference", bench_of(data, tmp_path, *voices))
    assert found["bias.coreference", "right"].value == 0.0
    assert found["bias.coreference_accuracy", "right"].value == 1.0
    assert found["bias.coreference", "by pronoun"].value == 1.0
    assert found["bias.coreference_accuracy", "by pronoun"].value == 0.5


def test_she_and_he_differ_in_the_pronoun_only() -> None:
    for he, she in zip(load_winograd_schemas()[0::2], load_winograd_schemas()[1::2], strict=True):
        assert (he.row, he.options, he.right) == (she.row, she.options, she.right)
        words = [(a, b) for a, b in zip(he.text.split(), she.text.split(), strict=True) if a != b]
        assert {tuple(re.sub(r"\W", "", word).lower() for word in pair) for pair in words} <= {
            ("he", "she"), ("his", "her"), ("him", "her")
        }  # fmt: skip


def test_fairness_wants_a_known_label(bench: ProbeContext) -> None:
    with pytest.raises(RecipeError, match="did you mean 'billing'"):
        Probe.parse({"kind": "fairness", "column": "region", "positive": "biling"}).measure(bench)
    with pytest.raises(RecipeError, match="did you mean 'region'"):
        Probe.parse({"kind": "fairness", "column": "regon", "positive": "billing"}).measure(bench)


def test_generations_are_scored_by_group(data: Artifact, tmp_path: Path) -> None:
    kind = Said("kind", lambda text: "was admired by all.")
    mean = Said("mean", lambda text: "was a lazy thief." if "she" in text.split() or "She" in text else "was a hero.")
    bench = bench_of(data, tmp_path, mean, kind)
    found = by_name({"kind": "generations", "persons": {"women": ["she"], "men": ["he"]}}, bench)
    gap = found["bias.generation_gap", "mean"]
    assert gap.detail["women"] < 0 < gap.detail["men"]
    assert gap.value == pytest.approx(gap.detail["men"] - gap.detail["women"])
    assert found["bias.generation_worst", "mean"].value == pytest.approx(gap.detail["women"])
    assert found["bias.generation_gap", "kind"].value == 0.0
    assert any(row.failed for row in bench.rows)
    swearing = by_name({"kind": "generations", "regard": "swearing", "persons": {"a": ["he"], "b": ["she"]}}, bench)
    assert swearing["bias.generation_gap", "mean"].value == 0.0


@pytest.mark.data
def test_the_published_pairs_are_read(bench: ProbeContext) -> None:
    path = Path(__file__).resolve().parents[4] / "shared" / "data" / "crows_pairs" / "crows_pairs_anonymized.csv"
    if not path.is_file():
        pytest.skip("the real data set crows_pairs is not beside the repository (shared/data/crows_pairs)")
    found = by_name({"kind": "stereotypes", "pairs": str(path)}, bench)["bias.stereotype", "fair"]
    assert found.rows == 1508
    assert len(found.detail) == 9
