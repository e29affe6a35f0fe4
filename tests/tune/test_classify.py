"""Scoring labels: the loss is cross-entropy over the options' scores, as evaluation scores them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import DataError
from luthier.models.generate import score_options
from luthier.models.load import load_model
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import build_pack, build_packs
from luthier.tune.objective import ObjectiveContext, TrainingExample
from luthier.tune.objectives.classify import Classify
from tuning import TuneEnv, chat, examples, make_env

ABOUT = ObjectiveContext(classes={"account": "account", "billing": "billing please", "delivery": "delivery"})


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def text(env: TuneEnv) -> ChatTokenizer:
    return ChatTokenizer.load(env.base.folder)


def scores(env: TuneEnv, dataset: list[TrainingExample], normalize: str) -> torch.Tensor:
    """(examples, options) of each row scored by the road that evaluation takes."""
    first = [features.rows[0].targets[0] for features in dataset]
    prompts = [list(features.rows[0].ids[:at]) for features, at in zip(dataset, first, strict=True)]
    options = [
        [list(row.ids[at : row.targets[-1] + 1]) for row in features.rows]
        for features, at in zip(dataset, first, strict=True)
    ]
    found = torch.tensor(score_options(load_model(env.base, "float32").model, prompts, options), dtype=torch.float64)
    lengths = torch.tensor([[len(ids) for ids in told] for told in options])
    return found / lengths if normalize == "mean" else found


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_the_loss_is_cross_entropy_over_the_scores_of_evaluation(
    env: TuneEnv, text: ChatTokenizer, normalize: Any
) -> None:
    objective = Classify(normalize=normalize)
    dataset = objective.build_training_examples(examples(6), text, ABOUT)
    rows = [row for features in dataset for row in features.rows]
    model = load_model(env.base, "float32").model
    wanted = torch.nn.functional.cross_entropy(scores(env, dataset, normalize), torch.zeros(6, dtype=torch.int64))
    parts = build_packs(rows, 60)
    assert len(parts) > 1
    for made in ([build_pack(rows)], parts):
        with torch.no_grad():
            found = [objective.loss(compute_pack_logprobs(model, one), one, None) for one in made]
        total = sum(float(loss.total) for loss in found) / objective.denominator(rows)
        assert total == pytest.approx(float(wanted), rel=1e-5)
    hits = (scores(env, dataset, normalize).argmax(1) == 0).double().mean()
    assert sum(float(loss.measures["accuracy"].sum()) for loss in found) / objective.denominator(rows) == pytest.approx(
        float(hits)
    )


def test_the_right_option_comes_first_and_others_are_drawn_by_the_seed(text: ChatTokenizer) -> None:
    about = ObjectiveContext(classes={**ABOUT.classes, **{f"class {n}": f"class {n}" for n in range(20)}})
    dataset = Classify(options=4).build_training_examples(examples(8), text, about)
    for features, example in zip(dataset, examples(8), strict=True):
        told = [text.decode([row.ids[at] for at in row.targets]).removesuffix("<|im_end|>") for row in features.rows]
        assert told[0] == about.classes[example.label or ""]
        assert len(set(told)) == 4
    assert dataset == Classify(options=4).build_training_examples(examples(8), text, about)
    other = ObjectiveContext(classes=about.classes, seed=1)
    assert dataset != Classify(options=4).build_training_examples(examples(8), text, other)


def test_more_options_than_classes_are_all_classes(text: ChatTokenizer) -> None:
    assert Classify(options=9).build_training_examples(examples(2), text, ABOUT) == Classify().build_training_examples(
        examples(2), text, ABOUT
    )


def test_rows_without_a_class_are_told(text: ChatTokenizer) -> None:
    for head in ("label", "sequence"):
        (features,) = Classify(head=head).build_training_examples([chat("Hm?", "none")], text, ABOUT)
        assert features.nothing == "it has no class"


def test_data_without_classes_is_refused(text: ChatTokenizer) -> None:
    with pytest.raises(DataError, match="at least two classes; this data set has 0"):
        Classify().build_training_examples(examples(2), text, ObjectiveContext())
    with pytest.raises(DataError, match="both answered 'same'"):
        Classify().build_training_examples(examples(2), text, ObjectiveContext(classes={"a": "same", "b": "same"}))


def test_settings_of_labels_are_refused_for_a_sequence_head() -> None:
    with pytest.raises(ValidationError, match="are for labels"):
        Classify(head="sequence", options=4)
