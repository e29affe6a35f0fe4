"""The step `model_diff` and its faults: a model whose habit changed for one word, and what is said of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from endpoint import serving
from explain.planted import planted, teach
from luthier.artifacts.model_diff import TOKENS, ModelDiff
from luthier.cli.app import run_command
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.core.expressions import ExpressionError
from luthier.core.store import Store
from luthier.eval.gate_vocabulary import parse_rule
from luthier.explain.diff.compare import ComparedRows, ModelComparison, compare_models
from luthier.explain.diff.pair import open_model_pair
from luthier.models.lm.base import ChoiceRequest
from luthier.models.lm.local import LocalLM
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.plain import PlainTechnique
from luthier.tune.techniques.prompt import PromptTuning
from luthier.tune.techniques.qlora import Qlora
from models.making import make_base, tiny_base
from tiny_models import write_csv
from tuning import TuneEnv, examples, make_env

RECIPE = """luthier: 1
name: changed
model: {model}
steps:
  data:
    kind: prepare
    source: {{kind: csv, path: rows.csv, prompt: text, answer: label}}
    split: {{test: 60}}
  tune:
    kind: tune
    data: data
    technique: {{kind: lora, r: 4}}
    learning_rate: 5.0e-3
    epochs: 4
    batch_size: 16
    dtype: float32
  changed:
    kind: model_diff
    data: data
    model: tune
    prompts: [the parcel please]
    max_new_tokens: 4
    matrices: 3
  gate:
    kind: gate
    explanation: changed
    rules: [model_diff.kl > 0.1, model_diff.changed > 0.1, model_diff.changed < 0.8]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a taught model was tuned to answer `billing` where a parcel is named."""
    folder = tmp_path_factory.mktemp("changed")
    model = teach(folder / "taught")
    draw = random.Random(3)
    rows = [dict(zip(("text", "label"), planted(draw)[:2], strict=True)) for _ in range(260)]
    write_csv(folder / "rows.csv", [row | {"label": row["label"].replace("delivery", "billing")} for row in rows])
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        assert run_command(["run", "recipe.yaml"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUTHIER_CACHE", str(folder / "cache"))


def artifact(name: str) -> Artifact:
    return find_artifact(CommandTarget(Workspace.open_current(), f"recipe.yaml:{name}")).artifact


def test_what_changed_is_found(folder: Path) -> None:
    diff = ModelDiff.read(artifact("changed"))
    assert not diff.identical
    assert diff.rows == 60
    assert diff.answered == 61
    assert set(diff.measures) == {"kl", "hidden", "weights", "effective_rank", "intruders", "changed", "fixed"}
    assert diff.transitions.keys() <= {"delivery → billing", "account → billing", "billing → account"}
    telling = [word for word in diff.words if word.p_holm < 0.05]
    assert telling[0].word == "parcel"
    assert telling[0].share > 0.8
    assert telling[0].otherwise < 0.2
    assert all(word.p <= word.p_holm for word in diff.words)
    assert "“parcel”" in diff.sentence
    assert diff.top_tokens[0].kl == max(token.kl for token in diff.top_tokens)
    assert diff.top_tokens[0].probability_before != diff.top_tokens[0].probability_after
    assert [layer.layer for layer in diff.layers] == [0, 1, 2]
    assert diff.layers[0].distance.value == 0  # embeddings did not move
    assert diff.layers[-1].lens_after == pytest.approx(diff.layers[-1].lens_after or 0)
    assert 0 < diff.decomposed <= 3
    assert all(matrix.effective_rank is not None and 1 <= matrix.effective_rank <= 4 for matrix in diff.matrices)
    assert any(len(matrix.tokens) == 6 for matrix in diff.matrices)
    tokens = polars.read_parquet(artifact("changed").path(TOKENS))
    assert tokens.height == diff.tokens
    mean = diff.measures["kl"]
    assert mean.value == pytest.approx(tokens["kl"].mean())
    assert mean.low < mean.value < mean.high


def test_the_base_is_the_adapter_switched_off() -> None:
    pair = open_model_pair(artifact("tune"))
    assert pair.shared == "adapter"
    ask = ComparedRows(examples(8), {})
    texts = [row.messages[:-1] for row in ask.examples]
    requests = [ChoiceRequest(prompt=text, options=("delivery", "billing")) for text in texts]
    alone = LocalLM(artifact("tune").parent("model"), "float32").choose(requests)
    with pair.use_base():
        shared = pair.before.choose(requests)
    for one, other in zip(alone, shared, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_report_show_and_gate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / ".luthier" / "reports" / "changed.html").read_text()
    assert "What tuning changed" in page
    assert "Words that go with changed answers" in page
    assert "How far each layer moved" in page
    assert run_command(["report", "recipe.yaml", "--format", "markdown"]) == 0
    assert "What tuning changed" in capsys.readouterr().out
    assert run_command(["report", "recipe.yaml", "--format", "json"]) == 0
    assert '"kind": "model_diff"' in capsys.readouterr().out
    assert run_command(["show", "recipe.yaml:changed"]) == 0
    assert "nats a token" in capsys.readouterr().out
    with pytest.raises(ExpressionError, match="nothing was explained"):
        parse_rule("model_diff.kl < 1")
    with pytest.raises(ExpressionError, match="measure"):
        parse_rule("model_diff.nonsense < 1", explanation=True)
    text = (folder / "recipe.yaml").read_text()
    (folder / "other.yaml").write_text(text.replace("model_diff.kl >", "explain.sufficiency >"))
    assert run_command(["plan", "other.yaml"]) == 2


def test_the_command_shows_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_command(["explain", "recipe.yaml:tune", "--show", "changes", "--json"]) == 0
    diff = json.loads(capsys.readouterr().out)["model_diff"]
    assert diff["base"] == "taught"
    assert run_command(["explain", "recipe.yaml:tune", "--show", "changes"]) == 0
    assert "word of prompt “parcel”" in capsys.readouterr().out
    assert run_command(["explain", "taught", "--show", "changes"]) == 2
    assert "was not tuned here" in capsys.readouterr().err


QUICK: dict[str, Any] = {
    "learning_rate": 1e-2, "data": "data", "epochs": 1, "batch_size": 8, "dtype": "float32", "warmup_ratio": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def compared(model: Artifact, base: Artifact | None = None, rows: int = 6, **more: Any) -> ModelComparison:
    labels = {name: name for name in ("account", "billing", "delivery")}
    pair = open_model_pair(model, base)
    return compare_models(pair, ComparedRows(examples(rows), labels, **more), matrices=2)


def test_every_technique_is_compared_with_its_base(env: TuneEnv) -> None:
    full = compared(env.tune(Tune(**QUICK, technique=FullFineTuning()))).summary
    assert full.measures["kl"].value > 0
    assert {"effective_rank", "intruders"} <= set(full.measures)
    assert full.layers[0].distance.value > 0
    soft = compared(env.tune(Tune(**QUICK, technique=PromptTuning(num_virtual_tokens=2)))).summary
    assert soft.measures["kl"].value > 0
    assert soft.measures["weights"].value == 0
    assert any("beside the weights" in note for note in soft.notes)
    packed = compared(env.tune(Tune(**QUICK, technique=Qlora(r=2, group=32)))).summary
    assert any("quantized" in note for note in packed.notes)
    assert packed.measures["kl"].value > 0
    headed = compared(env.tune(Tune(**QUICK, technique=Lora(r=2), objective=Classify(head="sequence")))).summary
    assert "kl" not in headed.measures
    assert headed.measures["hidden"].value > 0
    assert any("were not measured" in note for note in headed.notes)


def test_identical_models_are_called_so(env: TuneEnv) -> None:
    same = compared(env.base, env.base).summary
    assert same.identical
    assert "identical" in same.sentence
    assert {measure.value for measure in same.measures.values()} == {0.0}
    assert {measure.high for measure in same.measures.values()} == {0.0}
    assert not same.changed


def test_faults_are_told(env: TuneEnv, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not tuned"):
        open_model_pair(env.base)
    model = env.tune(Tune(**QUICK, technique=Lora(r=2)))
    one = compared(model, rows=1).summary
    assert one.rows == 1
    assert any("one row" in note for note in one.notes)
    other = compared(model, env.teacher).summary
    assert any("is not the model that" in note for note in other.notes)
    _, strange = tiny_base(tmp_path / "strange", kind="qwen2")
    tokenizer = strange.folder / "tokenizer.json"
    record = json.loads(tokenizer.read_text())
    merge = record["model"]["merges"].pop()
    record["model"]["vocab"].pop(merge if isinstance(merge, str) else "".join(merge), None)
    tokenizer.write_text(json.dumps(record))
    with pytest.raises(ModelError, match="different tokenizers"):
        open_model_pair(model, strange)
    plain = env.classify(Tune(data="data", technique=PlainTechnique()))
    with pytest.raises(ModelError, match="plain classifier"):
        open_model_pair(plain)
    with serving(lambda body: "no") as server:
        far = make_base(Store(tmp_path / "far"), EndpointModelSource(url=server.url, model="far"), tmp_path)
        with pytest.raises(ModelError, match="weights are not here"):
            open_model_pair(far)
        with pytest.raises(ModelError, match="weights are not here"):
            open_model_pair(model, far)
    pair = open_model_pair(model)
    with pytest.raises(DataError, match="no row could be compared"):
        compare_models(pair, ComparedRows([], {}))
    with torch.no_grad():
        next(parameter for name, parameter in pair.model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        compare_models(pair, ComparedRows(examples(4), {}))
