"""A model whose weights are here is asked as one behind an endpoint is; what was answered is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.chat.messages import Message
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.data.augment.completions import choose_options, draw_completions
from luthier.models.lm.cached import open_lm
from luthier.models.lm.local import LocalLM
from tests.augmenting import Bench
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    (folder / "model.json").write_text('{"name": "tiny"}')
    manifest = Manifest(
        digest="d" * 32, kind="base", makes="model", settings={}, inputs={}, reads={}, code="", seed=0,
        files=list_files(folder),
    )  # fmt: skip
    return Artifact(folder, manifest, lambda digest: pytest.fail("no parents"))


def _asked(*texts: str) -> list[tuple[Message, ...]]:
    return [(Message(role="user", content=text),) for text in texts]


TEXTS = ("My invoice is wrong", "Where is the parcel", "I need help with the login")


def test_each_answer_follows_its_own_seed(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.models.load.cpu_has_bf16", lambda: False)  # in bfloat16 a batch rounds otherwise
    lm = open_lm(model, tmp_path / "one")
    told: dict[str, Any] = {"max_tokens": 8, "temperature": 1.0}
    together = draw_completions(lm, _asked(*TEXTS), [1 << 63, 2, 3], **told)
    alone = [
        draw_completions(open_lm(model, tmp_path / "two"), _asked(text), [seed], **told)[0]
        for text, seed in zip(TEXTS, [1 << 63, 2, 3], strict=True)
    ]
    assert together == alone
    assert draw_completions(lm, _asked(*TEXTS), [7, 8, 9], **told) != together
    assert all(one.finished or one.text for one in together)


def test_what_was_answered_is_read_and_not_asked_again(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["billing", "delivery", "account"]
    told: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0}
    first = choose_options(open_lm(model, tmp_path), _asked(*TEXTS), options)
    written = draw_completions(open_lm(model, tmp_path), _asked(*TEXTS), [1, 2, 3], **told)
    monkeypatch.setattr(LocalLM, "loaded", property(lambda lm: pytest.fail("the model was read again")))
    again = open_lm(model, tmp_path)
    assert choose_options(again, _asked(*TEXTS), options) == first
    assert draw_completions(again, _asked(*TEXTS), [1, 2, 3], **told) == written
    assert set(first) <= set(options)


def test_the_step_runs_with_a_model_of_this_machine(model: Artifact, tmp_path: Path) -> None:
    bench = Bench(tmp_path, model=model)
    made = bench.augment([{"kind": "paraphrase", "max_tokens": 6, "temperature": 1.0}], share=0.1)
    told = made.summary
    assert told.made["paraphrase"] == sum(told.dropped.values()) + told.rows["train"] - bench.train_rows
    assert (
        made.files() == bench.augment([{"kind": "paraphrase", "max_tokens": 6, "temperature": 1.0}], share=0.1).files()
    )
