"""Scorers in an evaluation: columns beside every reply, metrics that read them, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from eval.evaluations import made
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.eval.predictions import read_answers
from luthier.eval.steps.evaluate import Evaluate
from luthier.recipe.workspace import Workspace
from tests.endpoint import serving


def test_a_judge_and_the_base_model_in_an_evaluation(store: Store, texts: Artifact, tuned: Artifact) -> None:
    def answer(body: dict[str, Any]) -> str:
        return "rubbish" if "order" in body["messages"][1]["content"] else '{"score": 4}'

    with serving(answer) as server:
        step = Evaluate(
            data="data", model="tune", baselines=(), max_new_tokens=4, metrics=("chrf", "judge_score", "fluency"),
            scorers=({"kind": "judge", "url": server.url, "tries": 1}, {"kind": "base_model", "model": "base"}),
        )  # fmt: skip
        found = made(store, step, {"data": texts, "model": tuned})
    frame = pl.read_parquet(found.path("predictions.parquet"))
    assert frame["columns"].null_count() == 0
    _, answers = read_answers(found, "tuned")
    assert set(answers.columns["judge"]) <= {0.75, None}
    told = found.read_json("metrics.json")["models"]["tuned"]
    assert told["judge_score"]["value"] == 0.75
    assert told["fluency"]["value"] >= 1  # the tiny model says little, if anything
    gaps = answers.columns["judge"].count(None)
    assert not gaps or f"{gaps} of {len(answers)} rows have no number" in told["judge_score"]["note"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": ["judge_score"]}, "no scorer writes; name one in `scorers`: judge"),
        ({"metrics": ["chrf"], "scorers": ["judge"]}, "no metric reads what the scorer judge writes"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Evaluate.model_validate({"kind": "evaluate", "data": "data", "model": "tune", **settings})


def test_a_command_scores_with_a_judge(tmp_path: Path) -> None:
    import json

    from luthier.commands.score import score_file

    rows = [
        {"question": f"q{n}?", "prediction": f"a{n}", "reference": "r", "scores": {"human": n / 5}} for n in range(6)
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(lambda body: str(1 + 4 * ("a5" in body["messages"][1]["content"]))) as server:
        word = f"judge:url={server.url},retries=0"
        found = score_file(Workspace(tmp_path), path, ["judge_score", "judge_agreement"], [word], say=print)["metrics"]
    assert found["judge_score"]["value"] == pytest.approx(1 / 6)
    assert 0 < found["judge_agreement"]["value"] < 1
    assert any((tmp_path / ".luthier-scores").iterdir())
