"""Chats with tools from the file to the export: the recipe that is written, the template that is set, the refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ToolCallFormat
from luthier.commands.new import write_recipe
from luthier.core.errors import ModelError, RecipeError
from luthier.models.chat_template import load_chat_template
from luthier.models.load import find_base_folder
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests.chat.conversations import TOOLS
from tests.tiny_models import own_cache, tiny_model

RECIPE = """\
luthier: 1
name: calls
model: tiny-model
steps:
  data: {kind: prepare, source: {kind: jsonl, path: chats.jsonl, tools: tools}, split: {test: 4}}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 2}
    objective: {kind: sft, train_on: all}
    batch_size: 8
    dtype: float32
"""


def chat(number: int, *, calls: bool = True, tools: bool = True) -> dict[str, Any]:
    """A conversation that asks, calls, reads the result and answers."""
    call = {"id": f"c{number}", "type": "function"}
    call["function"] = {"name": "lookup", "arguments": json.dumps({"key": f"city {number}"})}  # type: ignore[assignment]
    called = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": f'{{"found": "place {number * 7}"}}'},
    ]
    turns = [
        {"role": "user", "content": f"What is the capital number {number * 13} of word{number}?"},
        *(called if calls else []),
        {"role": "assistant", "content": f"It is place {number * 7}, as you will see in the book on page {number}."},
    ]
    return {"messages": turns, **({"tools": list(TOOLS)} if tools else {})}


def write_chats(folder: Path, rows: int = 24, **how: bool) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(chat(number, **how)) + "\n" for number in range(rows)), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model, whose template has no place for tools, chats and a recipe."""
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = tiny_model(tmp_path / "tiny-model") / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 4096'))
    write_chats(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def test_a_template_without_a_place_for_tools_is_refused_by_the_plan(folder: Path) -> None:
    with pytest.raises(ModelError) as refused:
        Recipe.load(folder).plan()
    error = refused.value
    assert error.exit_code == 2
    assert str(error.where) == "chats.jsonl:1"
    assert "this row and 23 others of those looked at have tools (lines 2, 3, 4 and 20 more)" in error.message
    assert "has no place for tools on offer or calls of tools" in error.message
    assert error.hint.startswith("set `chat_template: hermes` in the recipe")
    assert "another base model" in error.hint


def test_it_is_refused_when_the_data_set_is_made_and_before_a_training(folder: Path) -> None:
    made = Recipe.load(folder).run(only=["data"])
    with pytest.raises(
        ModelError, match=r"this row and 19 others have tools \(lines .*\), and the .* the base model has no place"
    ):
        Recipe.load(folder).plan()
    assert made["data"].artifact.manifest.makes == "dataset"
    with pytest.raises(ModelError, match="of tiny-model has no place"):
        _make_tune(folder)


def _make_tune(folder: Path) -> None:
    """The training itself, without a plan before it."""
    from luthier.core.events import RunEventEmitter
    from luthier.core.step import StepContext
    from luthier.recipe.models import open_base_model

    recipe = Recipe.load(folder)
    data = recipe.run(only=["data"])["data"].artifact
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    model = open_base_model(Workspace.open_current(), "tiny-model")
    recipe.steps["tune"].make(
        StepContext(
            name="tune", inputs={"data": data, "model": model}, folder=folder / "out",
            scratch=folder / "scratch", recipe_dir=folder, seed=0, events=RunEventEmitter().of("tune"),
        )
    )  # fmt: skip


def test_rows_that_only_offer_tools_may_do_without_them(folder: Path) -> None:
    write_chats(folder, calls=False)
    with pytest.raises(ModelError, match="no place for tools on offer:") as refused:
        Recipe.load(folder).plan()
    assert "leave `tools` out of the source" in refused.value.hint
    Recipe.load(folder, ["steps.data.source={kind: jsonl, path: chats.jsonl, messages: messages}"]).plan()


def test_calls_without_tools_on_offer_are_refused_as_well(folder: Path) -> None:
    write_chats(folder, tools=False)
    plain = "steps.data.source={kind: jsonl, path: chats.jsonl}"
    with pytest.raises(ModelError, match="no place for calls of tools:"):
        Recipe.load(folder, [plain]).plan()
    Recipe.load(folder, [plain, "chat_template=hermes"]).plan()


def test_chats_without_tools_are_taken_as_ever(folder: Path) -> None:
    write_chats(folder, calls=False, tools=False)
    Recipe.load(folder, ["steps.data.source={kind: jsonl, path: chats.jsonl}"]).plan()


@pytest.mark.matrix("mine.jinja")
@pytest.mark.parametrize("word", ["hermes", "mine.jinja"])
def test_one_template_trains_evaluates_serves_and_is_exported(folder: Path, word: str) -> None:
    source = load_chat_template("hermes", folder)
    if word != "hermes":
        source = source.replace("# Tools", "# My tools")
        (folder / word).write_text(source)
    report = "steps.report={kind: evaluate, data: data, model: tune, metrics: [tool_calls], tasks: [], limit: 2}"
    done = Recipe.load(folder, [f"chat_template={word}", report, "steps.report.max_new_tokens=4"]).run()
    tuned = done["tune"].artifact
    assert find_base_folder(tuned) == find_base_folder(done["model"].artifact)
    text = ChatTokenizer.load(find_base_folder(tuned))
    assert text.template.source == source
    assert ToolCallFormat.of(text) is not None  # what `serve` reads calls by
    assert done["report"].artifact.read_json("summary.json")["rows"] == 2
    learnt = done["tune"].frame("training_examples.parquet")
    assert learnt["nothing"].is_null().all()
    from luthier.models.export.checkpoint import export_model_folder

    export_model_folder(tuned, folder / "hf", "hf")
    export_model_folder(tuned, folder / "adapter", "adapter")
    export_model_folder(tuned, folder / "gguf", "gguf")
    for kind in ("hf", "adapter"):
        assert (folder / kind / "chat_template.jinja").read_text() == source
        assert ChatTokenizer.load(folder / kind).template.source == source
    assert "AutoTokenizer.from_pretrained(folder)" in (folder / "adapter" / "README.md").read_text()
    assert f"with the chat template {word}" in (folder / "adapter" / "README.md").read_text()


def test_another_template_is_another_base_model(folder: Path) -> None:
    (folder / "mine.jinja").write_text(load_chat_template("hermes", folder))
    digests = set()
    for word in ("hermes", "mine.jinja"):
        digests.add(Recipe.load(folder, [f"chat_template={word}"]).plan()["model"].digest)
    (folder / "mine.jinja").write_text(load_chat_template("hermes", folder).replace("# Tools", "# My tools"))
    digests.add(Recipe.load(folder, ["chat_template=mine.jinja"]).plan()["model"].digest)
    assert len(digests) == 3


def test_a_template_that_changes_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="no step reads the recipe's model"):
        Recipe.load(
            folder, ["chat_template=hermes", "steps={data: {kind: prepare, source: {kind: jsonl, path: chats.jsonl}}}"]
        )
    remote = "model={kind: endpoint, url: 'http://127.0.0.1:1/v1', model: x}"
    with pytest.raises(RecipeError, match="an endpoint renders its conversations itself"):
        Recipe.load(folder, ["chat_template=hermes", remote])
    own = "steps.model={kind: base, source: {kind: folder, path: tiny-model}}"
    with pytest.raises(RecipeError, match="the base model is the step 'model' here"):
        Recipe.load(folder, ["chat_template=hermes", own])
    Recipe.load(folder, [own, "steps.model.chat_template=hermes"]).plan()


def test_a_name_that_does_not_ship_is_refused_where_it_was_written(folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("model: tiny-model", "model: tiny-model\nchat_template: hermse"))
    with pytest.raises(Exception, match="did you mean 'hermes'") as refused:
        Recipe.load(folder).plan()
    assert str(refused.value.where) == f"{path}:4 (chat_template)"  # type: ignore[attr-defined]


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused(folder: Path) -> None:
    told = (folder / "tiny-model" / "tokenizer.json").read_text().replace("<|im_", "<|xx_")
    (folder / "tiny-model" / "tokenizer.json").write_text(told)
    with pytest.raises(
        ModelError, match=r"hermes writes <\|im_end\|>, <\|im_start\|>, which this model's tokenizer lacks"
    ):
        Recipe.load(folder, ["chat_template=hermes"]).plan()
    with pytest.raises(ModelError) as refused:
        Recipe.load(folder).plan()
    assert refused.value.hint.startswith("set `chat_template` to a Jinja file of your own")


def test_the_default_base_has_no_place_for_tools_and_hermes_goes_with_it(smollm2: Any) -> None:
    from luthier.models.catalog import CATALOG
    from luthier.models.chat_template import list_fitting_templates, read_tool_support

    assert not any(read_tool_support(smollm2.folder))
    assert CATALOG["smollm2-135m-instruct"].tool_template in list_fitting_templates(smollm2.folder)


@pytest.mark.slow
def test_new_writes_a_recipe_for_chats_with_tools_that_trains_on_every_call(folder: Path) -> None:
    written = write_recipe(Workspace.open_current(), "mine", "chats.jsonl", template=None, model="tiny-model")
    told = yaml.safe_load(written.path.read_text())
    assert told["chat_template"] == "hermes"
    assert told["steps"]["tune"]["objective"] == {"kind": "sft", "train_on": "all"}
    assert "has no place for tools" in written.decisions["chat_template"]
    assert "call tools or have them on offer" in written.decisions["objective.train_on"]
    assert told["steps"]["report"]["turns"] == "all"
    assert told["steps"]["report"]["metrics"][0] == "tool_calls"
    done = Recipe.load(written.path, ["steps.tune.dtype=float32"]).run(only=["tune"])
    rows = done["tune"].artifact.read_json("rendered.json")["rows"]
    assert all(
        sum('<tool_call>\n{"name": "lookup"' in one["text"] for one in sequence["stretches"] if one["trained"]) == 1
        for row in rows
        for sequence in row["sequences"]
    )


def test_new_for_the_default_base_sets_the_template_before_the_model_is_here(folder: Path) -> None:
    told = yaml.safe_load(
        write_recipe(Workspace.open_current(), "mine", "chats.jsonl", template=None, model=None).path.read_text()
    )
    assert (told["model"], told["chat_template"]) == ("smollm2-135m-instruct", "hermes")
    told.pop("chat_template")
    (folder / "mine" / "recipe.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(ModelError, match="no place for tools on offer or calls of tools"):
        Recipe.load(folder / "mine").plan()


def test_new_leaves_a_template_alone_that_has_a_place(folder: Path) -> None:
    (folder / "tiny-model" / "chat_template.jinja").write_text(load_chat_template("hermes", folder))
    told = yaml.safe_load(
        write_recipe(
            Workspace.open_current(), "mine", "chats.jsonl", template=None, model="tiny-model"
        ).path.read_text()
    )
    assert "chat_template" not in told
    assert told["steps"]["tune"]["objective"]["train_on"] == "all"


def test_new_says_where_no_template_fits(folder: Path) -> None:
    told = (folder / "tiny-model" / "tokenizer.json").read_text().replace("<|im_", "<|xx_")
    (folder / "tiny-model" / "tokenizer.json").write_text(told)
    written = write_recipe(Workspace.open_current(), "mine", "chats.jsonl", template=None, model="tiny-model")
    assert "chat_template" not in yaml.safe_load(written.path.read_text())
    assert "take another base model" in written.decisions["chat_template"]
