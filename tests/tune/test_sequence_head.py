"""A sequence head: transformers' own numbers, trained by any technique, loaded in plain PEFT, evaluated, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.messages import prompt_of
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.core.errors import ModelError
from luthier.core.step import StepContext
from luthier.eval.steps.evaluate import Evaluate
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.generate import generate, score_options, score_with_sequence_head
from luthier.models.load import get_output_classes, load_model, open_folder, open_merged
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import add_sequence_head, unwrap_peft_model
from luthier.models.sources.folder import FolderModelSource
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.objective import ObjectiveContext
from luthier.tune.objectives.classify import Classify
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from models.making import make_base
from tuning import TuneEnv, examples, make_env

CLASSES = ("account", "billing", "delivery")
ABOUT = ObjectiveContext(classes={name: name for name in CLASSES})
WEIGHTS = sorted(
    kind
    for kind, one in components_by_kind(TechniqueBase).items()
    if issubclass(one, Technique) and one.__module__.startswith("luthier.")
)
TECHNIQUES: list[Technique] = [Lora(r=8), FullFineTuning()]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def step(technique: Technique) -> Tune:
    return Tune(
        data="data", objective=Classify(head="sequence"), technique=technique, batch_size=16, learning_rate=8e-3,
        epochs=16, dtype="float32",
    )  # fmt: skip


@pytest.fixture(params=TECHNIQUES, ids=lambda technique: technique.kind)
def tuned(env: TuneEnv, request: pytest.FixtureRequest) -> Any:
    wanted = step(request.param)
    digest = env.tune_digest(wanted)
    return env.store.open(digest) if env.store.has(digest) else env.tune(wanted)


def prompts(env: TuneEnv, count: int = 6) -> list[list[int]]:
    return ChatTokenizer.load(env.base.folder).prompts([prompt_of(example) for example in examples(count)])


def test_one_step_teaches_the_head_alone_and_is_kept(env: TuneEnv) -> None:
    made = env.tune(step(Lora(r=8)).model_copy(update={"epochs": 1.0, "batch_size": 48}))
    model = load_model(made, "float32").model
    assert not any(weight.any() for name, weight in model.named_parameters() if "lora_B" in name)
    scores = torch.tensor(score_with_sequence_head(model, prompts(env)))
    assert scores.std(1).min() > 0.01  # it began at zero, with all classes alike


def headed(env: TuneEnv, dtype: torch.dtype) -> Any:
    """A plain model with a sequence head that is not zero."""
    model = add_sequence_head(open_folder(env.base.folder, dtype), CLASSES)
    torch.manual_seed(1)
    with torch.no_grad():
        model.score.weight.normal_()
    return model


def own(model: Any, asked: list[list[int]]) -> torch.Tensor:
    """(rows, classes) log-probabilities by transformers' own forward, each row alone."""
    with torch.no_grad():
        return torch.cat([torch.log_softmax(model(input_ids=torch.tensor([ids])).logits, -1) for ids in asked])


def test_log_probabilities_and_gradients_are_transformers_own(env: TuneEnv) -> None:
    model, asked = headed(env, torch.float64), prompts(env)
    numbers = torch.tensor([0, 1, 2, 2, 1, 0])
    rows = [TokenRow([*ids, int(n)], [0.0] * len(ids) + [1.0]) for ids, n in zip(asked, numbers, strict=True)]
    torch.testing.assert_close(torch.tensor(score_with_sequence_head(model, asked)).double(), own(model, asked))
    loss = (
        Classify(head="sequence").loss(compute_pack_logprobs(model, build_pack(rows)), build_pack(rows), None).total / 6
    )
    loss.backward()
    ours = {name: one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in asked], True, model.config.pad_token_id)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones(len(ids)) for ids in asked], True)
    theirs = model(input_ids=padded, attention_mask=seen, labels=numbers).loss
    theirs.backward()
    torch.testing.assert_close(loss, theirs)
    for name, one in model.named_parameters():
        torch.testing.assert_close(ours[name], one.grad, msg=name, atol=1e-6, rtol=1e-6)  # norms are in fp32


def test_one_output_is_read_as_it_is(env: TuneEnv) -> None:
    model, asked = headed(env, torch.float32), prompts(env, 2)
    model.score = torch.nn.Linear(32, 1)
    rows = [TokenRow([*ids, 0], [0.0] * len(ids) + [1.0]) for ids in asked]
    with torch.no_grad():
        wanted = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in asked])
        torch.testing.assert_close(compute_pack_logprobs(model, build_pack(rows)), wanted)


def test_it_loads_in_plain_peft_and_in_plain_transformers(env: TuneEnv, tuned: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    assert get_output_classes(tuned) == CLASSES
    loaded = load_model(tuned, "float32")
    scores = torch.tensor(score_with_sequence_head(loaded.model, prompts(env)))
    if (tuned.folder / "adapter").is_dir():
        base = AutoModelForSequenceClassification.from_pretrained(env.base.folder, num_labels=3)
        with silence_peft_warnings():
            plain = PeftModel.from_pretrained(base, tuned.folder / "adapter").eval()
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(tuned.folder).eval()
        assert plain.config.id2label == dict(enumerate(CLASSES))
    torch.testing.assert_close(scores, own(plain, prompts(env)), atol=1e-5, rtol=1e-4)
    merged = open_merged(tuned, torch.float32)
    torch.testing.assert_close(scores, own(merged, prompts(env)), atol=1e-4, rtol=1e-4)


def test_it_learns_its_classes_and_is_evaluated_by_them(env: TuneEnv, tuned: Any, tmp_path: Path) -> None:
    evaluate = Evaluate(data="data", model="tune", split="train", baselines=(), limit=24)
    work = env.work(step(Lora(r=4)))
    folder = tmp_path / "evaluation"
    folder.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    inputs = {"data": env.data, "model": tuned}
    evaluate.make(
        StepContext(
            name="report", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=folder, seed=0, events=work.events
        )
    )
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert models["tuned"]["accuracy"]["value"] > 0.8
    assert models["tuned"]["accuracy"]["value"] > models["base"]["accuracy"]["value"]


def test_it_writes_no_text(env: TuneEnv, tuned: Any) -> None:
    loaded = load_model(tuned, "float32")
    with pytest.raises(ModelError, match="names one of 3 classes and writes no text"):
        generate(loaded, prompts(env, 1), 4, set())
    with pytest.raises(ModelError, match="writes no text"):
        score_options(loaded.model, prompts(env, 1), [[[1]]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_technique_trains_and_saves_the_head(kind: str, env: TuneEnv) -> None:
    wanted = step(components_by_kind(TechniqueBase)[kind].model_validate({"kind": kind})).model_copy(
        update={"epochs": 2}
    )
    scores = torch.tensor(score_with_sequence_head(load_model(env.tune(wanted), "float32").model, prompts(env)))
    assert (scores - torch.log(torch.tensor(1 / 3))).abs().max() > 1e-2


def test_other_objectives_and_other_classes_are_refused_over_it(env: TuneEnv, tuned: Any) -> None:
    for objective in (Classify(), "sft"):
        other = step(Lora(r=4)).model_copy(update={"objective": Tune(data="data", objective=objective).objective})
        with pytest.raises(ModelError, match="has a sequence head for account, billing, delivery; wanted are none"):
            env.tune(other, model=tuned)
    with pytest.raises(ModelError, match="wanted are a, b"):
        add_sequence_head(unwrap_peft_model(load_model(tuned).model), ("a", "b"))


def test_tuning_goes_on_over_the_same_classes(env: TuneEnv, tuned: Any) -> None:
    again = step(Lora(r=2)).model_copy(update={"epochs": 1})
    made = env.tune(again, model=tuned)
    losses = [json.loads(line)["loss"] for line in (made.folder / "log.jsonl").read_text().splitlines()]
    env.store.remove(env.tune_digest(again))
    assert losses[0] < 0.8


def test_it_is_exported_and_checked(env: TuneEnv, tuned: Any, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    said: list[str] = []
    folder = export_model_folder(tuned, tmp_path / "hf", "hf", say=said.append)
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert whole.config.id2label == dict(enumerate(CLASSES))
    wanted = torch.tensor(score_with_sequence_head(load_model(tuned, "float32").model, prompts(env)))
    torch.testing.assert_close(own(whole, prompts(env)), wanted, atol=1e-4, rtol=1e-4)
    assert "names the same class" in said[0]
    assert "AutoModelForSequenceClassification" in (folder / "README.md").read_text()
    with pytest.raises(ModelError, match="sequence head for 3 classes, for which GGUF"):
        export_model_folder(tuned, tmp_path / "gguf", "gguf")
    again = make_base(env.store, FolderModelSource(path=str(folder)), tmp_path)  # and begins another recipe
    assert get_output_classes(again) == get_output_classes(tuned)
    env.store.remove(again.digest)
    if (tuned.folder / "adapter").is_dir():
        folder = export_model_folder(tuned, tmp_path / "adapter", "adapter")
        base = AutoModelForSequenceClassification.from_pretrained(env.base.folder, num_labels=3)
        with silence_peft_warnings():
            plain = PeftModel.from_pretrained(base, folder).eval()
        torch.testing.assert_close(own(plain, prompts(env)), wanted, atol=1e-4, rtol=1e-4)


def test_its_accuracy_is_measured_on_the_way(env: TuneEnv) -> None:
    held_out = ValidationSettings.model_validate({"rows": 12, "every": 3, "metric": {"kind": "accuracy"}})
    made = env.tune(step(Lora(r=8)).model_copy(update={"validation": held_out, "epochs": 4}))
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    found = [line["held_out_accuracy"] for line in log if "held_out_accuracy" in line]
    assert len(found) == 3
    assert all(0 <= one <= 1 for one in found)
    scores = torch.tensor(score_with_sequence_head(load_model(made, "float32").model, prompts(env, 48)))
    assert scores.exp().sum(1) == pytest.approx(torch.ones(48), abs=1e-5)
