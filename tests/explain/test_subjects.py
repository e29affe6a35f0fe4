"""Every kind of model and target: heads, rewards, contrasts, parts, adapters, plain classifiers, endpoints, faults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from endpoint import Body, serving
from explain.planted import ask
from luthier.artifacts.explanation import ExplanationRecord
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, LuthierError, ModelError
from luthier.explain.explainer import Explainer
from luthier.explain.run import explain_question
from luthier.explain.subject import ExplanationRequest, SubjectBuilder
from luthier.models.lm.local import LocalLM
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.reward import RewardObjective
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.plain import PlainTechnique
from models.making import make_base
from tuning import TuneEnv, make_env, pairs

QUICK: dict[str, Any] = {
    "learning_rate": 1e-2,
    "data": "data",
    "epochs": 1,
    "batch_size": 8,
    "dtype": "float32",
    "warmup_ratio": 0.0,
}
TEXT = "My parcel has not come. I was charged twice. What now?"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def by(model: Artifact, *methods: str, text: str = TEXT, units: Any = "words", **more: Any) -> list[ExplanationRecord]:
    question = ExplanationRequest(messages=ask(text), **more)
    explainers = [Explainer.parse(method) for method in methods or ("attnlrp", "leave_one_out")]
    return explain_question(SubjectBuilder(model, units=units), question, explainers, orders=3)


def test_a_class_of_a_head_and_a_class_against_another(env: TuneEnv) -> None:
    model = env.tune(Tune(**QUICK, technique=Lora(r=2), objective=Classify(head="sequence")))
    lm = LocalLM(model, "float32")
    (scores,) = lm.classify([(ask(TEXT), ())])
    best, worst = (pick(range(3), key=scores.__getitem__) for pick in (max, min))
    own = by(model)
    assert {record.target.text for record in own} == {lm.classes[best]}
    assert own[0].value == pytest.approx(scores[best], abs=1e-5)
    against = by(model, against=lm.classes[worst])
    assert against[0].target.kind == "contrast"
    assert against[0].value == pytest.approx(scores[best] - scores[worst], abs=1e-5)
    assert own[0].notes == ()
    with pytest.raises(ModelError, match="has no class 'nonsense'"):
        by(model, answer="nonsense")


def test_a_reward_counts_the_words_of_the_answer(env: TuneEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path, pairs())
    model = env.tune(Tune(**QUICK, technique=Lora(r=2), objective=RewardObjective()))
    found = by(model, answer="delivery, I think")[0]
    assert found.target.kind == "reward"
    assert {unit.role for unit in found.units} == {"user", "assistant"}
    talk = (*ask(TEXT), Message(role="assistant", content="delivery, I think"))
    assert found.value == pytest.approx(LocalLM(model, "float32").reward([(talk, ())])[0], abs=1e-5)
    with pytest.raises(DataError, match="none is given"):
        by(model)


def test_answers_of_a_language_model(env: TuneEnv) -> None:
    from luthier.models.lm.base import LoglikelihoodRequest

    whole = by(env.base, answer="delivery or billing")[0]
    (told,) = LocalLM(env.base, "float32").loglikelihood(
        [LoglikelihoodRequest(prompt=ask(TEXT), continuation="delivery or billing")]
    )
    assert whole.value == pytest.approx(told.logprob, abs=1e-4)
    parts = [by(env.base, answer="delivery or billing", part=part)[0] for part in ("delivery", " or billing")]
    assert parts[0].value + parts[1].value >= whole.value - 1e-6
    contrast = by(env.base, answer="delivery", against="billing")[0]
    apart = [by(env.base, answer=text)[0].value for text in ("delivery", "billing")]
    assert contrast.value == pytest.approx(apart[0] - apart[1], abs=1e-4)
    chosen = by(env.base, options={"a": "account", "d": "delivery"})[0]
    assert chosen.target.text in ("account", "delivery")
    assert by(env.base, answer="d", options={"a": "account", "d": "delivery"})[0].target.text == "delivery"
    with pytest.raises(DataError, match="is not in the answer"):
        by(env.base, answer="delivery", part="billing")


def test_adapters_are_explained_as_they_answer(env: TuneEnv) -> None:
    model = env.tune(Tune(**QUICK, technique=Lora(r=2), objective=Classify()))
    tuned, base = (by(one, "attnlrp", "integrated_gradients", answer="delivery") for one in (model, env.base))
    assert tuned[0].value != pytest.approx(base[0].value, abs=1e-3)
    assert [unit.score for unit in tuned[0].units] != [unit.score for unit in base[0].units]
    assert tuned[0].model != base[0].model


def test_a_plain_classifier_is_asked_and_nothing_else(env: TuneEnv) -> None:
    model = env.classify(Tune(data="data", technique=PlainTechnique()))
    (found,) = by(model, "leave_one_out")
    assert found.perturbation_only
    assert found.target.kind == "class"
    assert 0 < math.exp(found.value) < 1
    assert "No gradients can be taken" in found.notes[0]
    assert all(unit.tokens == 0 for unit in found.units)
    (against,) = by(model, "shapley", answer="delivery", against="billing")
    assert against.gap == pytest.approx(0, abs=1e-9)
    with pytest.raises(ModelError, match="attnlrp reads gradients"):
        by(model, "attnlrp")
    with pytest.raises(ModelError, match="has no class 'x'"):
        by(model, "leave_one_out", answer="x")
    with pytest.raises(ModelError, match="no tokens here"):
        by(model, "leave_one_out", units="tokens")


def test_an_endpoint_is_explained_by_how_alike_its_answers_are(tmp_path: Path) -> None:
    from luthier.core.store import Store

    def reply(body: Body) -> str:
        words = body["messages"][-1]["content"].split()
        return "your parcel is late" if "parcel" in words else "please tell us more"

    with serving(reply) as server:
        source = EndpointModelSource(url=server.url, model="far")
        model = make_base(Store(tmp_path / "store"), source, tmp_path)
        (found,) = by(model, "leave_one_out", text="where is my parcel now")
        assert found.target.kind == "likeness"
        assert found.target.text == "your parcel is late"
        assert [unit.score for unit in found.units] == [0, 0, 0, 1, 0]
        assert found.perturbation_only
        assert any("no log-probabilities" in note for note in found.notes)
        with pytest.raises(ModelError, match="reads gradients"):
            by(model, "integrated_gradients")
        with pytest.raises(DataError, match="tells no log-probabilities"):
            by(model, "leave_one_out", against="x")


def test_faults_are_told(env: TuneEnv) -> None:
    with pytest.raises(DataError, match="the answer is empty"):
        by(env.base, answer=" ")
    with pytest.raises(DataError, match="one unit") as told:
        by(env.base, text="Hello", units="turns", answer="delivery")
    assert "--units sentences" in str(told.value.hint)
    picture = Media(kind="image", digest="0" * 64, format="png", size=1, width=1, height=1)
    seen = Message(role="user", content=f"{MEDIA_MARK} What is this?", media=(picture,))
    with pytest.raises(DataError, match="pictures of this conversation are not here"):
        SubjectBuilder(env.base).build(ExplanationRequest(messages=(seen,), answer="delivery"))
    with pytest.raises(DataError, match="reads 512 at once"):
        by(env.base, text="parcel " * 1200, answer="delivery")
    builder = SubjectBuilder(env.base, units="words")
    with torch.no_grad():
        next(builder._cache.load(env.base, "float32").model.parameters()).fill_(float("nan"))
    asked = ExplanationRequest(messages=ask(TEXT), answer="delivery")
    for method in ("leave_one_out", "attnlrp", "gradient_x_input"):
        with pytest.raises(LuthierError, match="not finite"):
            explain_question(builder, asked, [Explainer.parse(method)], faithful=False)


def test_a_long_prompt_shares_its_beginning(env: TuneEnv) -> None:
    """Taking each sentence away computes far fewer tokens than reading every variant whole."""
    from luthier.models.packing.pack import TokenRow, build_packs

    text = " ".join(f"Sentence number {number} says a thing." for number in range(12))
    subject = SubjectBuilder(env.base, units="sentences").build(
        ExplanationRequest(messages=ask(text), answer="delivery")
    )
    scorer: Any = subject.prompt.scorer
    sets = [scorer.all_units - {unit} for unit in range(scorer.count)]
    (target,) = scorer.targets
    rows = [
        TokenRow([*ids, *target.ids], [*[0.0] * len(ids), *target.weights], str(number))
        for number, ids in enumerate(map(scorer.keep, sets))
    ]
    computed = sum(pack.tokens for pack in build_packs(rows, 4096))
    assert computed < 0.65 * sum(row.needed for row in rows)
