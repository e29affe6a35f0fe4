"""Asking contestants more than the held-out rows: chunk by chunk, gone on with after a kill, nothing asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.evaluations import label_examples
from eval.probing import Said
from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.eval import cached_model as module
from luthier.eval import local_model
from luthier.eval.baseline import Baseline
from luthier.eval.cached_model import CachedEvalModel
from luthier.eval.local_model import InferenceSettings, LocalEvalModel, open_answer_cache
from luthier.eval.model import EvalModel, TrainedBaseline
from luthier.eval.task import read_held_out_task
from luthier.models.lm.base import GenerateRequest, LoglikelihoodRequest, Request, Response
from luthier.models.lm.local import LocalLM

QUESTION = InferenceSettings(normalize="sum", max_new_tokens=8, dtype="float32", likelihood=False)
ASKED = [(Message(role="user", content=f"Where is parcel {number}?"),) for number in range(5)]


@pytest.fixture
def model(base: Artifact) -> LocalEvalModel:
    return LocalEvalModel.of(base, QUESTION, name="base", title="the base model")


@pytest.fixture
def cached_model(model: LocalEvalModel, labels: Artifact, tmp_path: Path) -> CachedEvalModel:
    return of(model, labels, tmp_path)


def of(eval_model: EvalModel, data: Artifact, folder: Path, heard: list[RunEvent] | None = None) -> CachedEvalModel:
    events = RunEventEmitter((heard if heard is not None else []).append).of("report")
    return CachedEvalModel(
        model=eval_model,
        task=read_held_out_task(data, "test", None),
        kept=open_answer_cache(folder),
        events=events,
    )


def test_answers_are_scored_after_a_conversation(cached_model: CachedEvalModel) -> None:
    one, other = cached_model.loglikelihoods([(ASKED[0], ("yes", "no")), (ASKED[1], ("no", "maybe", "yes"))])
    assert [len(one), len(other)] == [2, 3]
    assert all((told.logprob or 0) < 0 and (told.tokens or 0) > 0 for told in (*one, *other))
    ((no, yes),) = cached_model.loglikelihoods([(ASKED[0], ("no", "yes"))])
    assert [yes.logprob, no.logprob] == pytest.approx([told.logprob for told in one], abs=1e-4)


def test_finished_chunks_are_not_asked_again(
    cached_model: CachedEvalModel, labels: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.TOGETHER, GenerateRequest, 2)
    sizes: list[int] = []
    generate = LocalLM.generate

    def counted(self: LocalLM, requests: Sequence[GenerateRequest]) -> list[Response]:
        sizes.append(len(requests))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return generate(self, requests)

    monkeypatch.setattr(LocalLM, "generate", counted)
    with pytest.raises(KeyboardInterrupt):
        cached_model.generate(ASKED, 3)
    found = cached_model.generate(ASKED, 3)
    assert sizes == [2, 2, 1, 1]
    assert of(cached_model.model, labels, tmp_path).generate(ASKED, 3) == found
    assert len(sizes) == 4


def test_a_killed_asking_goes_on(labels: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.TOGETHER, LoglikelihoodRequest, 4)
    requests: list[Request] = [LoglikelihoodRequest(prompt="a" * at, continuation="b" * at) for at in range(1, 19)]
    asked: list[str] = []

    def dying(before: str, option: str) -> float:
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.append(option)
        return -float(len(option))

    with pytest.raises(KeyboardInterrupt):
        of(Said("it", str, dying), labels, tmp_path).tell(requests)
    heard: list[RunEvent] = []
    again: list[str] = []
    second = Said("it", str, lambda before, option: again.append(option) or -float(len(option)))
    told = of(second, labels, tmp_path, heard).tell(requests, "riddles")
    assert again == ["b" * at for at in range(9, 19)]
    assert [one.logprob for one in told] == [-float(at) for at in range(1, 19)]
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (18, 18, "riddles")


def test_rows_that_are_not_held_out_are_answered_alike(cached_model: CachedEvalModel) -> None:
    rows = label_examples(12)
    replies = cached_model.answer(rows)
    assert [reply.prediction for reply in replies] == [
        reply.prediction for reply in cached_model.model.answer(rows, cached_model.task)
    ]
    assert local_model.CHUNK == 32


def test_a_baseline_answers_and_does_nothing_else(labels: Artifact, tmp_path: Path) -> None:
    rows = label_examples(30)
    plain = of(TrainedBaseline(Baseline.parse("tfidf"), rows), labels, tmp_path)
    assert not plain.is_model
    assert plain.able == {"answer"}
    right = [reply.prediction == row.label for reply, row in zip(plain.answer(rows), rows, strict=True)]
    assert sum(right) > 25
    for ask_it in (lambda: plain.loglikelihoods([("", ("yes",))]), lambda: plain.generate(ASKED, 2)):
        with pytest.raises(ModelError, match="TF-IDF with logistic regression cannot"):
            ask_it()


def test_who_names_classes_does_nothing_else(
    base: Artifact, monkeypatch: pytest.MonkeyPatch, model: LocalEvalModel
) -> None:
    assert {"answer", "generate", "loglikelihood"} < model.able
    monkeypatch.setattr("luthier.models.lm.local.get_output_classes", lambda artifact: ("a", "b"))
    assert LocalEvalModel.of(base, QUESTION, name="base", title="the base model").able == {"answer"}
