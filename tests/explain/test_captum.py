"""Captum gives the same gradients, integrated gradients, ablations and Shapley values, read row by row by
transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from explain.planted import ask
from luthier.artifacts.explanation import ExplanationRecord
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.explain.explainer import Explainer
from luthier.explain.run import explain_subject
from luthier.explain.subject import ExplanationRequest, Subject, SubjectBuilder
from luthier.models.sources.folder import FolderModelSource
from models.architectures import Double
from models.making import make_base, other_model

captum = pytest.importorskip("captum.attr", reason="captum, the oracle, is not installed")
TEXT = "The parcel has not come. Where is it? I paid twice. Help me."
FAMILIES = ("llama", "gpt2", "qwen2")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny model with random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    place = other_model(folder / "model", request.param)
    return make_base(Store(folder / "store"), FolderModelSource(path=str(place)), folder)


@pytest.fixture(params=["answer", "contrast"])
def subject(request: pytest.FixtureRequest, base: Artifact) -> Subject:
    """A prompt of four sentences, in float64."""
    builder = SubjectBuilder(base, units="sentences")
    builder._cache.load(base, "float32").model.double()
    against = "billing" if request.param == "contrast" else ""
    with Double():
        return builder.build(ExplanationRequest(messages=ask(TEXT), answer="delivery", against=against))


def value_of(subject: Subject, kept: Any = None, embeddings: Tensor | None = None) -> Tensor:
    """The target's value by transformers alone: one row at a time, without packs."""
    scorer = subject.prompt.scorer
    model = scorer.model  # type: ignore[attr-defined]
    ids = list(scorer.ids) if kept is None else scorer.keep(kept)  # type: ignore[attr-defined]
    total = torch.zeros((), dtype=torch.float64)
    for target in scorer.targets:  # type: ignore[attr-defined]
        row = torch.tensor([[*ids, *target.ids]])
        inputs = model.get_input_embeddings()(row)
        if embeddings is not None:
            inputs = torch.cat([embeddings[None], inputs[:, len(ids) :]], 1)
        logps = torch.log_softmax(model(inputs_embeds=inputs, use_cache=False).logits[0], -1)
        for at, (token, weight) in enumerate(zip(target.ids, target.weights, strict=True), start=len(ids)):
            total = total + weight * logps[at - 1, token]
    return total


def units_of(subject: Subject, tokens: Tensor) -> list[float]:
    """Scores of tokens added up by unit."""
    found = [0.0] * len(subject.cut.units)
    for owner, score in zip(subject.cut.owners, tokens.tolist(), strict=True):
        if owner >= 0:
            found[owner] += score
    return found


def explain(subject: Subject, base: Artifact, method: Any) -> ExplanationRecord:
    with Double():
        return explain_subject(base, subject, Explainer.parse(method), faithful=False)


def over_embeddings(subject: Subject) -> Callable[[Tensor], Tensor]:
    """A function of (rows, prompt tokens, width) embeddings, as Captum wants it."""
    return lambda rows: torch.stack([value_of(subject, embeddings=row) for row in rows])


def over_units(subject: Subject) -> Callable[[Tensor], Tensor]:
    """A function of (rows, units) of zeros and ones."""
    return lambda rows: torch.stack(
        [value_of(subject, frozenset(at for at, bit in enumerate(row.tolist()) if bit)) for row in rows]
    )


def test_gradients_and_integrated_gradients(subject: Subject, base: Artifact) -> None:
    with Double():
        gradients = subject.prompt.gradients
        assert gradients is not None
        own = gradients.embeddings[None].clone().requires_grad_()
        plain = captum.InputXGradient(over_embeddings(subject)).attribute(own)[0].sum(-1)
        integrated = captum.IntegratedGradients(over_embeddings(subject), multiply_by_inputs=True).attribute(
            own, baselines=torch.zeros_like(own), n_steps=10, internal_batch_size=2
        )[0]
    found = explain(subject, base, "gradient_x_input")
    assert [unit.score for unit in found.units] == pytest.approx(units_of(subject, plain), abs=1e-6)
    found = explain(subject, base, {"kind": "integrated_gradients", "steps": 10, "baseline": "zero"})
    assert [unit.score for unit in found.units] == pytest.approx(units_of(subject, integrated.sum(-1)), abs=1e-6)


def test_ablation_and_shapley_values(subject: Subject, base: Artifact) -> None:
    ones = torch.ones(1, len(subject.cut.units), dtype=torch.float64)
    with Double(), torch.no_grad():
        ablated = captum.FeatureAblation(over_units(subject)).attribute(ones)[0]
        shares = captum.ShapleyValues(over_units(subject)).attribute(ones)[0]
    found = explain(subject, base, "leave_one_out")
    assert [unit.score for unit in found.units] == pytest.approx(ablated.tolist(), abs=1e-6)
    found = explain(subject, base, "shapley")
    assert [unit.score for unit in found.units] == pytest.approx(shares.tolist(), abs=1e-6)


def test_units_taken_away_in_a_pack_are_as_alone(subject: Subject) -> None:
    scorer = subject.prompt.scorer
    sets = [frozenset(at for at in range(4) if number >> at & 1) for number in range(16)]
    with Double(), torch.no_grad():
        found = scorer.score(sets)
        assert found == pytest.approx([float(value_of(subject, one)) for one in sets], abs=1e-10)
