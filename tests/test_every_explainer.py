"""What every explainer promises: it finds planted evidence, follows the weights, adds up where it says so, and is
documented."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from documented import undescribed
from explain.planted import EVIDENCE, ask, planted, taught_base
from luthier.artifacts.explanation import ExplanationRecord
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.explain.explainer import Explainer
from luthier.explain.run import explain_question, explain_subject
from luthier.explain.subject import ExplanationRequest, SubjectBuilder

KINDS = components_by_kind(Explainer)
LEAST_HITS = {"random": 0.0, "gradient_x_input": 0.3}
"""Share of texts on which the planted word has the highest score. A plain gradient is known for missing it; chance is a
sixth."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that answers by one planted word."""
    return taught_base(tmp_path_factory.mktemp("taught"))[1]


@pytest.fixture(scope="module")
def builder(model: Artifact) -> SubjectBuilder:
    """Its prompts, in words."""
    return SubjectBuilder(model, units="words", seed=1)


@pytest.fixture(scope="module")
def explained(builder: SubjectBuilder) -> list[tuple[int, dict[str, ExplanationRecord]]]:
    """The number of the planted word of each of some texts, and why its answer and not another, by every method."""
    draw = random.Random(5)
    found = []
    for _ in range(20):
        text, answer, number = planted(draw)
        other = next(one for one in EVIDENCE.values() if one != answer)
        question = ExplanationRequest(messages=ask(text), answer=answer, against=other)
        records = explain_question(builder, question, [Explainer.parse(kind) for kind in sorted(KINDS)], orders=9)
        found.append((number, {record.method: record for record in records}))
    return found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_finds_planted_evidence(kind: str, explained: list[tuple[int, dict[str, ExplanationRecord]]]) -> None:
    def best(record: ExplanationRecord) -> int:
        return max(range(len(record.units)), key=lambda at: record.units[at].score)

    hits = [best(records[kind]) == number for number, records in explained]
    assert sum(hits) / len(hits) >= LEAST_HITS.get(kind, 0.9)
    gains = [
        found.comprehensiveness - found.sufficiency
        - found.random_comprehensiveness.mean + found.random_sufficiency.mean
        for _, records in explained
        if (found := records[kind].faithfulness)
    ]  # fmt: skip
    mean = sum(gains) / len(gains)
    assert mean > 0.05 or kind == "random"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_adds_up_where_it_says_so(kind: str, explained: list[tuple[int, dict[str, ExplanationRecord]]]) -> None:
    for _, records in explained:
        record = records[kind]
        assert (record.gap is not None) == bool(KINDS[kind].adds_up)
        if KINDS[kind].adds_up == "units":
            assert sum(unit.score for unit in record.units) == pytest.approx(record.value - record.without, abs=1e-6)
        if record.gap is not None:
            told = any("misses its sum" in note for note in record.notes)
            assert abs(record.gap) < 0.1 * max(1.0, abs(record.value - record.without)) or told


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_changes_when_weights_are_drawn_anew(kind: str, model: Artifact) -> None:
    builder = SubjectBuilder(model, units="words", seed=1)
    question = ExplanationRequest(messages=ask("the parcel was late again today"), answer="delivery")
    explainer = Explainer.parse(kind)
    before, again = (explain_subject(model, builder.build(question), explainer, faithful=False) for _ in range(2))
    assert before == again
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in builder._cache.load(model, "float32").model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    after = explain_subject(model, builder.build(question), explainer, faithful=False)
    scores = [[unit.score for unit in record.units] for record in (before, after)]
    assert (scores[0] == scores[1]) == (kind == "random")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_is_documented(kind: str) -> None:
    assert KINDS[kind].__doc__
    assert undescribed(KINDS[kind]) == []


def test_the_folder_of_a_model_decides_nothing_else(tmp_path: Path) -> None:
    """The same weights elsewhere give the same explanation."""
    from explain.planted import teach
    from luthier.core.store import Store
    from luthier.models.sources.folder import FolderModelSource
    from models.making import make_base

    folder = teach(tmp_path / "a", steps=2)
    records = []
    for name in ("one", "two"):
        base = make_base(Store(tmp_path / name), FolderModelSource(path=str(folder)), tmp_path)
        question = ExplanationRequest(messages=ask("the parcel was late again today"), answer="delivery")
        records += explain_question(SubjectBuilder(base), question, [Explainer.parse("attnlrp")], orders=3)
    assert records[0] == records[1]
