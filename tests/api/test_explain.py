"""Explanations over HTTP: a real server, keys with scopes, masks, bounds, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from commanded import Running, command
from explain.planted import ask, planted, taught_base, teach
from luthier.artifacts.explanation import ExplanationRecord
from luthier.cli.app import run_command
from luthier.commands.explain_service import ExplanationLimits, ExplanationService
from luthier.commands.keys import create_api_key
from luthier.recipe.workspace import Workspace
from luthier.serve.openai.protocol import AnswerTimeoutError, ServerBusyError
from luthier.traces.api_keys import Caller
from tiny_models import write_csv

RECIPE = """luthier: 1
name: why
model: ./taught
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: text, answer: label}
    split: {test: 0.3}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 2}
    max_train_samples: 8
    batch_size: 8
    epochs: 1
    learning_rate: 1e-5
"""
SCOPES = {"asks": ["infer"], "why": ["infer", "explain"], "other": ["infer", "explain"], "owner": ["explain", "data"]}
TEXT = "write to ada@example.org about the parcel today"


@dataclass
class Desk:
    """A server with keys."""

    running: Running
    keys: dict[str, str]

    def ask(self, path: str, body: Any, who: str = "why", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return httpx.post(
            f"{self.running.told['url']}{path}", json=body, headers=headers, timeout=120, trust_env=False, **more
        )

    def explain(self, who: str = "why", **body: Any) -> httpx.Response:
        """A request for an explanation, of few random orders."""
        return self.ask("/explain", {"orders": 3, "units": "words", **body}, who)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A server over a taught model and one that was tuned from it."""
    folder = tmp_path_factory.mktemp("why")
    teach(folder / "taught")
    draw = random.Random(3)
    write_csv(folder / "rows.csv", [dict(zip(("text", "label"), planted(draw)[:2], strict=True)) for _ in range(40)])
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert run_command(["run", "recipe.yaml"]) == 0
        workspace = Workspace.open_current()
        keys = {name: create_api_key(workspace, name, scopes, None) for name, scopes in SCOPES.items()}
        with command(folder, "recipe.yaml:tune", "./taught") as running:
            yield Desk(running, keys)


def records(response: httpx.Response) -> list[ExplanationRecord]:
    assert response.status_code == 200, response.text
    return [ExplanationRecord.model_validate(record) for record in response.json()["explanations"]]


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error, which has OpenAI's shape."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_text_is_explained_and_its_personal_data_masked(desk: Desk) -> None:
    (found,) = records(desk.explain(model="./taught", input=TEXT, instead="billing", refine="tokens"))
    assert found.method == "attnlrp"
    assert found.target.kind == "contrast"
    assert max(found.units, key=lambda unit: unit.score).text.strip() == "parcel"
    assert found.faithfulness is not None
    assert found.part_unit == "tokens"
    words = [unit.text.strip() for unit in found.units]
    assert "[EMAIL]" in words
    assert "ada" not in found.model_dump_json()
    talk = [{"role": "user", "content": "the invoice was wrong again"}]
    both = records(desk.explain(model="why:tune", messages=talk, methods=["leave_one_out", "random"], answer="billing"))
    assert [record.method for record in both] == ["leave_one_out", "random"]


def test_answers_are_written_meanwhile(desk: Desk) -> None:
    slow = {"model": "./taught", "input": " ".join(["the parcel was late"] * 10), "methods": ["shapley:orders=16"]}
    with ThreadPoolExecutor(1) as pool:
        explanation = pool.submit(desk.explain, **slow)
        answers = 0
        while not explanation.done():
            talk = [{"role": "user", "content": "where is the parcel"}]
            answer = desk.ask("/chat/completions", {"model": "./taught", "messages": talk, "max_tokens": 4}, "asks")
            assert answer.status_code == 200
            answers += 1
        assert len(records(explanation.result())[0].units) == 40
    assert answers > 3


def test_a_kept_request_is_explained_to_its_own_key_and_to_the_scope_data(desk: Desk) -> None:
    talk = [{"role": "user", "content": TEXT}]
    answer = desk.ask("/chat/completions", {"model": "./taught", "messages": talk, "max_tokens": 8}).json()
    for who in ("why", "owner"):
        (found,) = records(desk.explain(who, trace=answer["id"]))
        assert found.target.text.strip() == answer["choices"][0]["message"]["content"].strip()
        assert "[EMAIL]" in "".join(unit.text for unit in found.units)
    assert refusal(desk.explain("other", trace=answer["id"]), 404)["code"] == "trace_not_found"
    assert refusal(desk.explain("owner", trace="chatcmpl-none"), 404)["code"] == "trace_not_found"


def test_training_rows_need_the_scope_data(desk: Desk) -> None:
    import polars as pl

    (split,) = sorted(Path.cwd().glob(".luthier/**/examples/train.parquet")) or [None]
    assert split is not None
    row = pl.read_parquet(split)["id"][0]
    assert refusal(desk.explain(model="why:tune", row=row), 403)["code"] == "missing_scope"
    (found,) = records(desk.explain("owner", model="why:tune", row=row[:8]))
    assert found.row == row
    assert "no row has the id" in refusal(desk.explain("owner", model="why:tune", row="zzzz"), 400)["message"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"model": "./taught"}, None, "expected one of"),
        ({"model": "./taught", "input": "a", "trace": "b"}, None, "got input and trace"),
        ({"input": "a b"}, None, "`model` is missing"),
        ({"model": "./taught", "input": "a b", "units": "letters"}, "units", "sentences"),
        ({"model": "./taught", "input": "a b", "methods": ["nonsense"]}, None, "nonsense"),
        ({"model": "./taught", "input": "a b", "colour": 1}, "colour", "no parameter"),
        ({"model": "./taught", "input": "parcel", "units": "turns"}, "units", "one unit"),
        ({"model": "./taught", "input": "the parcel", "part": "x"}, "part", "is not in the answer"),
        ({"model": "./taught", "input": "the parcel " * 600}, None, "tokens"),
        ({"model": "./taught", "input": "parcel " * 9000}, "input", "characters"),
        ({"model": "why:tune", "input": "the parcel", "orders": 9999}, "orders", "199"),
    ],
)
def test_what_cannot_be_explained(desk: Desk, body: dict[str, Any], param: str | None, says: str) -> None:
    error = refusal(desk.explain(**body), 400)
    assert says in error["message"]
    assert param is None or error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_keys_without_the_scope_and_unknown_models(desk: Desk) -> None:
    assert "'explain'" in refusal(desk.explain("asks", model="./taught", input="the parcel"), 403)["message"]
    assert refusal(desk.explain(model="nobody", input="the parcel"), 404)["code"] == "model_not_found"


def test_time_and_queue_are_bounded(tmp_path: Path) -> None:
    """Whoever takes too long is told so, and the process is ended; whoever comes beyond the queue is told to wait."""
    _, model = taught_base(tmp_path, steps=2)

    class OpenGateway:
        async def open_conversation(self, name: str, messages: Any, caller: Caller) -> tuple[str, Any]:
            return model.digest, messages

    async def ask_twice() -> list[Any]:
        service = ExplanationService(
            workspace=Workspace(tmp_path), gateway=OpenGateway(), models={model.digest: model},  # type: ignore[arg-type]
            limits=ExplanationLimits(deadline_s=0.4, waiting=0),
        )  # fmt: skip
        asks = (service.explain_conversation("m", ask("the parcel was late"), Caller(key=None), {}) for _ in range(2))
        found = await asyncio.gather(*asks, return_exceptions=True)
        assert service._worker is None
        return found

    late, busy = asyncio.run(ask_twice())
    assert isinstance(late, AnswerTimeoutError)
    assert late.status == 504
    assert isinstance(busy, ServerBusyError)
    assert busy.status == 429
