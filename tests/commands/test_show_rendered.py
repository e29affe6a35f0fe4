"""`luthier show --rendered`: training rows as the model sees them, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.artifacts.dataset import read_examples
from luthier.chat.tokenizer import ChatTokenizer
from luthier.cli.app import run_command
from luthier.models.load import find_base_folder
from luthier.recipe.schema import Recipe
from tests.chat.conversations import TOOLS
from tests.recipe.test_chat_template import RECIPE, chat, write_chats
from tests.tiny_models import own_cache, tiny_model

GLAIVE = Path(__file__).resolve().parents[3] / "shared/data/llamafactory_demo/glaive_toolcall_en_demo.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what a training reads is made, and the training is not."""
    folder = tmp_path_factory.mktemp("rendered")
    tiny_model(folder / "tiny-model")
    write_chats(folder, rows=12)
    text = RECIPE.replace("model: tiny-model", "model: tiny-model\nchat_template: hermes")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", "--only", "data", "--only", "model"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(made))
    monkeypatch.chdir(made)


def _shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run_command(["show", *words]) == 0
    return capsys.readouterr().out


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run_command(["show", *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("word", ["recipe.yaml:data", "recipe.yaml:tune", ":data", "data", "tune", "recipe.yaml", None])
def test_every_way_to_name_what_is_read_tells_the_same(capsys: pytest.CaptureFixture[str], word: str | None) -> None:
    told = _shown(capsys, *([word] if word else []), "--rendered", "2")
    assert told == _shown(capsys, ":tune", "--rendered", "2")
    assert told.startswith("2 rows as tiny-model sees them in tune; tokens between ⟦ and ⟧ are trained on\n")


def test_rows_are_told_as_they_are_trained_on(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(_shown(capsys, ":data", "--rendered", "3", "--json"))
    artifact = Recipe.load(made).plan()
    examples = read_examples(artifact.artifact("data"), "train")[:3]
    text = ChatTokenizer.load(find_base_folder(artifact.artifact("model")))
    assert [row["id"] for row in told["rows"]] == [example.id for example in examples]
    for row, example in zip(told["rows"], examples, strict=True):
        (sequence,) = row["sequences"]
        encoded = text.encode(example.messages, example.tools, learn="all")
        assert sequence["ids"] == encoded.ids
        assert sequence["trained"] == encoded.loss_mask
        assert "".join(one["text"] for one in sequence["stretches"]) == encoded.text
        turns = text.turns(example.messages)
        reference = text.tokenizer.apply_chat_template(turns, tools=list(TOOLS), tokenize=False)  # keys as in the file
        assert encoded.text == reference
        assert (sequence["tokens"], sequence["trained_tokens"]) == (len(encoded.ids), sum(encoded.loss_mask))
        trained = [one["text"] for one in sequence["stretches"] if one["trained"]]
        assert [one.startswith("<tool_call>") for one in trained] == [True, False]
        assert (row["file"], row["line"]) == ("chats.jsonl", example.origin.line)


def test_a_row_that_calls_is_among_those_that_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(tmp_path / "tiny-model")
    rows = [json.dumps(chat(number, calls=number in (7, 9))) + "\n" for number in range(12)]
    (tmp_path / "chats.jsonl").write_text("".join(rows), encoding="utf-8")
    text = RECIPE.replace("model: tiny-model", "model: tiny-model\nchat_template: hermes").replace("test: 4", "test: 0")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert run_command(["run", str(tmp_path), "--only", "data", "--only", "model"]) == 0
    for number, lines in ((1, [8]), (3, [1, 2, 8]), (9, [*range(1, 10)])):
        told = json.loads(_shown(capsys, f"{tmp_path}/recipe.yaml:tune", "--rendered", str(number), "--json"))
        assert [row["line"] for row in told["rows"]] == lines


def test_marks_survive_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    told = _shown(capsys, ":data", "--rendered", "1")
    assert "\x1b" not in told
    assert told.count("⟦") == told.count("⟧") == 3  # the legend, the call, the answer
    assert '<|im_start|>assistant\n⟦<tool_call>\n{"name": "lookup"' in told
    assert "</tool_call><|im_end|>⟧\n<|im_start|>user\n<tool_response>" in told
    assert "── chats.jsonl:" in told
    assert " trained on\n" in told


def test_colour_is_added_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _shown(capsys, ":data", "--rendered", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = _shown(capsys, ":data", "--rendered", "1")
    assert "\x1b[1;32m⟦<tool_call>" in coloured
    assert coloured.replace("\x1b[1;32m", "").replace("\x1b[0m", "") == plain


def test_tokens_are_told_with_their_ids(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(_shown(capsys, ":data", "--rendered", "1", "--json"))["rows"][0]["sequences"][0]
    lines = [line for line in _shown(capsys, ":data", "--rendered", "1", "--ids").splitlines() if line.startswith("  ")]
    assert [int(line.split()[1]) for line in lines] == told["ids"]
    assert ["⟦" in line for line in lines] == told["trained"]
    assert "--rendered 3" in _refused(capsys, ":data", "--ids")


def test_what_would_move_the_cursor_is_spelled_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(tmp_path / "tiny-model")
    rows = [{"prompt": f"a\x1b[2Jb\r{n} {n * 17}", "answer": f"word{n}"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load(RECIPE)
    recipe["steps"]["data"] = {
        "kind": "prepare",
        "source": {"kind": "jsonl", "path": "rows.jsonl"},
        "split": {"test": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run_command(["run", str(tmp_path), "--only", "data", "--only", "model"]) == 0
    assert "a\\x1b[2Jb" in _shown(capsys, f"{tmp_path}/recipe.yaml:tune", "--rendered", "1")


def test_rows_that_are_cut_or_left_out_say_so(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(_shown(capsys, ":data", "--rendered", "1", "--json"))["rows"][0]["sequences"][0]
    limit = told["tokens"] - 9
    for rule, expected in (
        ("drop", f"left out: longer than {limit} tokens"),
        ("prompt", f"{limit} tokens, {told['trained_tokens']} trained on, 9 cut off (the oldest of the prompt)"),
        ("right", "9 cut off (the end of the row)"),
    ):
        path = made / f"{rule}.yaml"
        limits = f"train_on: all, max_length: {limit}, truncation: {rule}"
        path.write_text((made / "recipe.yaml").read_text().replace("train_on: all", limits))
        assert expected in _shown(capsys, f"{path}:tune", "--rendered", "1")


def test_what_is_not_clear_is_refused_with_what_to_write(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe: dict[str, Any] = yaml.safe_load((made / "recipe.yaml").read_text())
    recipe["steps"]["again"] = {**recipe["steps"]["tune"], "epochs": 2}
    several = made / "several.yaml"
    several.write_text(yaml.safe_dump(recipe))
    said = _refused(capsys, f"{several}:data", "--rendered", "1")
    assert "several steps train on 'data': tune, again" in said or "several steps train on 'data': again, tune" in said
    assert "name one: luthier show" in said
    assert "in again;" in _shown(capsys, f"{several}:again", "--rendered", "1")
    assert "there is no step 'tuen'" in _refused(capsys, ":tuen", "--rendered", "1")
    assert "no step trains on 'model'" in _refused(capsys, ":model", "--rendered", "1")


def test_what_is_not_made_is_said_with_what_makes_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made / "other.yaml"
    path.write_text((made / "recipe.yaml").read_text().replace("{test: 4}", "{test: 5}"))
    said = _refused(capsys, f"{path}:tune", "--rendered", "1")
    assert "the data that 'tune' reads is not made yet" in said
    assert f"`luthier run {path} --only data` makes what is read" in said


def test_rows_that_would_be_refused_are_refused_here_too(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made / "plain.yaml"
    path.write_text((made / "recipe.yaml").read_text().replace("chat_template: hermes\n", ""))
    assert run_command(["run", str(path), "--only", "model"]) == 0
    assert "the chat template of tiny-model has no place for" in _refused(capsys, f"{path}:tune", "--rendered", "1")


@pytest.mark.data
def test_real_chats_with_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GLAIVE's conversations in ShareGPT's form, of LLaMA-Factory's demo: `new` writes a recipe that trains on every
    call, and the text is transformers' own."""
    if not GLAIVE.is_file():
        pytest.skip("the real data set llamafactory_demo is not beside the repository (shared/data/llamafactory_demo)")
    tiny_model(tmp_path / "tiny-model")
    folder = tmp_path / "calls"
    assert run_command(["new", str(folder), "--from", str(GLAIVE), "--model", str(tmp_path / "tiny-model")]) == 0
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["chat_template"] == "hermes"
    assert recipe["steps"]["tune"]["objective"] == {"kind": "sft", "train_on": "all"}
    assert recipe["steps"]["report"]["turns"] == "all"
    recipe["steps"]["data"]["ops"] = []
    recipe["steps"]["tune"]["objective"]["max_length"] = 100_000
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run_command(["run", str(folder), "--only", "data", "--only", "model"]) == 0
    told = json.loads(_shown(capsys, f"{folder}/recipe.yaml:data", "--rendered", "60", "--json"))
    plan = Recipe.load(folder).plan()
    text = ChatTokenizer.load(find_base_folder(plan.artifact("model")))
    examples = read_examples(plan.artifact("data"), "train")[:60]
    calling = 0
    for row, example in zip(told["rows"], examples, strict=True):
        (sequence,) = row["sequences"]
        turns = text.turns(example.messages)
        reference = text.tokenizer.apply_chat_template(turns, tools=list(example.tools) or None, tokenize=False)
        assert "".join(one["text"] for one in sequence["stretches"]) == reference
        trained = "".join(one["text"] for one in sequence["stretches"] if one["trained"])
        calls = [call for message in example.messages for call in message.tool_calls]
        assert trained.count("<tool_call>\n") == len(calls)
        assert trained.count("<|im_end|>") == sum(message.role == "assistant" for message in example.messages)
        calling += bool(calls)
    assert calling > 15
