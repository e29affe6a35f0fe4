"""The technique `plain`: the baseline's classifier as a model, byte for byte the same, opened by plain scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from documented import undescribed
from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import Example, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.core.step import ArtifactSpec, PlanContext
from luthier.eval.baseline import Baseline, ClassifierEvalModel
from luthier.eval.task import HeldOutTask
from luthier.models.load import find_base_folder, get_model_name, get_output_classes, load_model
from luthier.models.open_classifier import open_pipeline
from luthier.models.text_classifier import TextClassifier, TextClassifierSettings
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.plain import PlainTechnique
from tuning import TuneEnv, examples, make_env, pairs

OTHERWISE: dict[str, Any] = {"c": 0.5, "words": 1, "min_df": 2}
"""Another value for each field, which must change the model."""
LABELS = ("account", "billing", "delivery")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def step(**fields: Any) -> Tune:
    return Tune(data="data", technique=PlainTechnique(**fields))


def made(env: TuneEnv, wanted: Tune) -> Artifact:
    digest = env.tune_digest(wanted)
    return env.store.open(digest) if env.store.has(digest) else env.classify(wanted)


def texts_of(rows: Sequence[Example]) -> list[str]:
    return [user_text_of(row) for row in rows]


def held_out() -> list[Example]:
    return [row for row in examples(90)[48:] if row.label]


def test_every_field_is_documented_and_changes_the_model(env: TuneEnv) -> None:
    assert undescribed(PlainTechnique) == []
    assert {*OTHERWISE} == {*PlainTechnique.model_fields} - {"kind"}
    usual = made(env, step()).path("classifier.safetensors").read_bytes()
    for name, value in OTHERWISE.items():
        assert made(env, step(**{name: value})).path("classifier.safetensors").read_bytes() != usual


def test_scikit_learn_fits_the_same_on_the_same_rows(env: TuneEnv) -> None:
    rows = read_examples(env.data, "train")
    for words, c in ((2, 10.0), (1, 0.5)):
        pipeline = Pipeline(
            [
                ("words", TfidfVectorizer(ngram_range=(1, words), sublinear_tf=True)),
                ("regression", LogisticRegression(C=c, max_iter=2000)),
            ]
        ).fit(texts_of(rows), [row.label for row in rows])
        wanted = pipeline.predict_proba(texts_of(held_out()))
        artifact = made(env, step(words=words, c=c))
        ours = TextClassifier.open(artifact.folder).probabilities(texts_of(held_out()))
        np.testing.assert_allclose(ours, wanted, atol=1e-9)
        opened = open_pipeline(artifact.folder)
        np.testing.assert_allclose(opened.predict_proba(texts_of(held_out())), wanted, atol=1e-9)
        assert opened.predict(texts_of(held_out())).tolist() == pipeline.predict(texts_of(held_out())).tolist()


def test_it_answers_as_the_baseline_does(env: TuneEnv) -> None:
    task = HeldOutTask(
        kind="label", split="test", examples=tuple(held_out()), available=42, options={name: name for name in LABELS}
    )
    ours = ClassifierEvalModel(made(env, step()), name="tuned", title="the plain classifier").answer(
        task.examples, task
    )
    assert ours == Baseline.parse("tfidf").answer(read_examples(env.data, "train"), task)


def test_made_again_it_has_the_same_bytes(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    once = {entry.path: entry.digest for entry in env.classify(step()).manifest.files}
    env.store.remove(env.tune_digest(step()))
    assert {entry.path: entry.digest for entry in env.classify(step()).manifest.files} == once


def test_no_file_is_a_pickle(env: TuneEnv) -> None:
    files = {entry.path for entry in made(env, step()).manifest.files}
    assert files == {
        "classifier.json",
        "classifier.safetensors",
        "training_examples.parquet",
        "model.json",
        "training.json",
    }


def test_it_tells_what_it_is_made_of(env: TuneEnv) -> None:
    artifact = made(env, step())
    told = artifact.read_json("training.json")
    assert told["classes"] == list(LABELS)
    assert told["rows"] == 48
    assert told["trainable_parameters"] == 3 * (told["features"] + 1)
    assert get_model_name(artifact) == "tfidf"
    assert get_output_classes(artifact) == LABELS
    assert polars.read_parquet(artifact.path("training_examples.parquet"))["seen"].to_list() == [1] * 48


def test_rows_are_limited_as_for_any_other_technique(env: TuneEnv) -> None:
    artifact = made(env, Tune(data="data", technique=PlainTechnique(), max_train_samples=20))
    assert artifact.read_json("training.json")["rows"] == 20


def test_a_network_is_asked_of_it_in_vain(env: TuneEnv) -> None:
    artifact = made(env, step())
    for asked in (load_model, find_base_folder):
        with pytest.raises(ModelError, match="tfidf is a plain classifier: it has no network"):
            asked(artifact)
    with pytest.raises(ModelError, match="is a plain classifier"):
        Tune(data="data", model="plain").estimate_cost(_outlook(env, model=artifact))
    ahead = PlanContext(
        inputs={"data": env.data}, upstream={}, recipe_dir=Path(), outlines={"model": step().outline(_outlook(env))}
    )
    with pytest.raises(ModelError, match="is a plain classifier"):
        Tune(data="data", model="plain").estimate_cost(ahead)


def test_its_cost_is_told_without_a_model(env: TuneEnv) -> None:
    told = step().estimate_cost(_outlook(env))
    assert told.tokens == 0
    assert told.seconds is not None
    assert told.peak_bytes is not None
    assert "48 rows of 3 classes; no base model is read" in told.how
    more = step().estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=Path(), outlines={"data": _many(env)}))
    assert more.seconds is not None
    assert more.seconds > told.seconds


def test_a_fit_that_was_mostly_imports_tells_nothing_of_the_speed(env: TuneEnv) -> None:
    usual = step().estimate_cost(_outlook(env))
    for train_s, is_told in ((0.5, False), (60.0, True)):
        measured = {"measures": {"weight_steps_per_s": 200.0, "train_s": train_s}}
        known = PlanContext(inputs={"data": env.data}, upstream={}, recipe_dir=Path(), history=measured)
        told = step().estimate_cost(known)
        assert ("speed of the last plain classifier" in told.how) == is_told
        assert (told != usual) == is_told


@pytest.mark.parametrize("is_made", [True, False])
def test_data_without_classes_are_refused_at_plan(is_made: bool, tmp_path: Path) -> None:
    env = make_env(tmp_path, rows=pairs())
    outlook = (
        _outlook(env)
        if is_made
        else PlanContext(
            inputs={}, upstream={}, recipe_dir=Path(), outlines={"data": ArtifactSpec(task="text", rows={"train": 9})}
        )
    )
    with pytest.raises(DataError, match="technique plain chooses one of a few classes, and the rows hold texts"):
        step().estimate_cost(outlook)


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (["a parcel"], ["delivery"], "all 1 rows have one class"),
        ([], [], "there are no rows with a class"),
        (["!", "?"], ["a", "b"], "no word is left to learn from"),
    ],
)
def test_nothing_to_tell_apart_is_said(texts: list[str], labels: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        TextClassifier.fit(texts, labels)


def test_a_class_without_a_training_row_is_said(tmp_path: Path) -> None:
    env = make_env(tmp_path, rows=[row for row in examples(30) if row.label != "account"])
    env.classify(step())
    assert env.said("warning") == ["1 class has no training row and will never be named: account"]


def test_a_later_format_is_refused(env: TuneEnv, tmp_path: Path) -> None:
    artifact = made(env, step())
    for name in ("classifier.json", "classifier.safetensors"):
        (tmp_path / name).write_bytes(artifact.path(name).read_bytes())
    told = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(ModelError, match="expected format 1 of a plain classifier, got 2"):
        TextClassifier.open(tmp_path)


WORDS = st.lists(
    st.sampled_from(["parcel", "straße", "支払い", "ΑΒΓ", "a b", "it's", "\n", "4,5"]), min_size=1, max_size=6
)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(WORDS, min_size=4, max_size=12), words=st.integers(1, 3))
def test_what_is_saved_answers_as_what_was_fitted(
    rows: list[list[str]], words: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [" ".join(["word", *row]) for row in rows]
    labels = [f"class {at % 3}" for at in range(len(texts))]
    fitted = TextClassifier.fit(texts, labels, TextClassifierSettings(words=words))
    folder = tmp_path_factory.mktemp("saved")
    fitted.save(folder)
    opened = TextClassifier.open(folder)
    assert opened.settings == fitted.settings
    assert np.array_equal(opened.probabilities(texts), fitted.probabilities(texts))
    assert opened.classes == fitted.classes


def _outlook(env: TuneEnv, **more: Artifact) -> PlanContext:
    return PlanContext(inputs={"data": env.data, **more}, upstream={}, recipe_dir=Path())


def _many(env: TuneEnv) -> ArtifactSpec:
    rows = [
        {"messages": [one.model_dump() for one in row.messages], "tools": [], "meta": {}}
        for row in read_examples(env.data, "train")
    ]
    return ArtifactSpec(task="label", rows={"train": 5000}, answers=[f"class {at}" for at in range(50)], examples=rows)
