"""Conversations turn by turn: the true history before each answer, and conversations as units of intervals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from eval.evaluations import dataset, label_examples, made
from luthier.chat.messages import Example, ExampleOrigin, Message, ToolCall
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError
from luthier.core.events import RunEvent
from luthier.core.store import Store
from luthier.eval import local_model
from luthier.eval.comparison import compare_evaluations
from luthier.eval.predictions import find_example_answers
from luthier.eval.report.collect import collect_report_facts
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.task import (
    count_skipped_turns,
    expand_task_turns,
    find_last_turns,
    list_conversation_ids,
    read_held_out_task,
)

METRICS = ({"kind": "chrf"}, {"kind": "exact_match"}, {"kind": "perplexity"})


def conversation(number: int, turns: int) -> Example:
    """A talk in which the assistant speaks so many times."""
    messages = [Message(role="system", content="You sort tickets.")]
    for turn in range(turns):
        messages += [
            Message(role="user", content=f"Ticket {number}: where is parcel {turn}?"),
            Message(role="assistant", content=f"Parcel {turn} of {number} is on its way."),
        ]
    origin = ExampleOrigin(source="jsonl", file="talks.jsonl", line=number + 1)
    return Example(id=f"{number:016x}", origin=origin, kind="chat", messages=tuple(messages), meta={"odd": number % 2})


TALKS = [conversation(number, 1 + number % 3) for number in range(24)]


@pytest.fixture(scope="module")
def talks(store: Store) -> Artifact:
    return dataset(store, TALKS[:4], TALKS)


def asked(turns: str) -> Evaluate:
    return Evaluate.model_validate(
        {"data": "data", "model": "tune", "turns": turns, "metrics": METRICS, "max_new_tokens": 4, "tasks": ()}
    )


@pytest.fixture(scope="module")
def heard() -> list[RunEvent]:
    return []


@pytest.fixture(scope="module")
def by_turn(store: Store, talks: Artifact, tuned: Artifact, heard: list[RunEvent]) -> Artifact:
    return made(store, asked("all"), {"data": talks, "model": tuned}, heard)


def test_every_turn_is_asked_after_the_true_history(
    store: Store, by_turn: Artifact, tuned: Artifact, heard: list[RunEvent]
) -> None:
    """The same answers and likelihoods as of conversations that end with that turn."""
    frame = pl.read_parquet(by_turn.path("predictions.parquet"))
    mine = frame.filter(pl.col("model") == "tuned")
    assert mine.height == 48
    assert mine["id"].to_list()[:4] == [f"{0:016x}/1", f"{1:016x}/1", f"{1:016x}/2", f"{2:016x}/1"]
    assert mine["reference"].to_list()[2] == "Parcel 1 of 1 is on its way."
    alone = [talk.model_copy(update={"messages": talk.messages[:5]}) for talk in TALKS if len(talk.messages) >= 5]
    second = made(store, asked("last"), {"data": dataset(store, TALKS[:4], alone), "model": tuned})
    of_second = pl.read_parquet(second.path("predictions.parquet")).filter(pl.col("model") == "tuned")
    same = mine.filter(pl.col("id").str.ends_with("/2"))
    assert same["prediction"].to_list() == of_second["prediction"].to_list()
    assert same["logprob"].to_list() == pytest.approx(of_second["logprob"].to_list(), abs=1e-4)
    said = [str(event) for event in heard]
    assert any("48 turns of 24 conversations are asked" in line for line in said)


def test_intervals_and_tests_go_over_conversations(by_turn: Artifact) -> None:
    scores = by_turn.read_json("metrics.json")["models"]["tuned"]
    assert all("over clusters" in score["signature"] for score in scores.values())
    assert "wilson" not in scores["exact_match"]["signature"]
    assert all("McNemar" not in row["test"] for row in by_turn.read_json("comparisons.json"))
    summary = by_turn.read_json("summary.json")
    assert "48 turns of 24 conversations: intervals and tests are computed over conversations." in summary["notes"]
    assert {one["rows"] for one in summary["slices"] if one["value"] == "1"} == {24}


def test_it_is_read_back_as_it_was_written(by_turn: Artifact, talks: Artifact) -> None:
    """Two evaluations side by side, an example's story, and the report's rows."""
    told = compare_evaluations(by_turn, by_turn)
    assert told["rows"] == 48
    assert all(row["p"] == 1.0 and row["difference"] == 0.0 for row in told["comparisons"])
    story = [one.row for one in find_example_answers(by_turn, f"{2:016x}") if one.model == "base"]
    assert story == [f"{2:016x}/{number}" for number in (1, 2, 3)]
    (evaluation,) = collect_report_facts("talks", "talks.yaml", {"data": talks, "report": by_turn}).evaluations
    rows = list(evaluation.everything or ())
    assert len(rows) == 48
    assert "parcel 1?" in rows[2].text


def test_turns_that_say_nothing_or_are_only_read_are_counted() -> None:
    call = ToolCall(name="find", arguments={})
    messages = (
        Message(role="user", content="one?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="42"),
        Message(role="assistant", content="It is 42.", learn=False),
        Message(role="user", content="sure?"),
        Message(role="assistant", content="Yes."),
        Message(role="user", content="really?"),
        Message(role="assistant", content=" "),
    )
    one = TALKS[0].model_copy(update={"messages": messages})
    assert count_skipped_turns([one, TALKS[1]]) == 2


def test_chunks_keep_conversations_whole(talks: Artifact) -> None:
    task = expand_task_turns(read_held_out_task(talks, "test", None))
    chunks = list(local_model.group_into_chunks(task.examples, 5))
    assert [one.id for chunk in chunks for one in chunk] == [one.id for one in task.examples]
    for before, after in pairwise(chunks):
        assert list_conversation_ids([before[-1].id]) != list_conversation_ids([after[0].id])
    assert max(map(len, chunks)) <= 5
    plain = list(local_model.group_into_chunks(read_held_out_task(talks, "test", None).examples, 5))
    assert [len(chunk) for chunk in plain] == [5, 5, 5, 5, 4]
    assert [task.examples[row].id[-2:] for row in find_last_turns(task)][:3] == ["/1", "/2", "/3"]


def test_labels_have_one_turn(store: Store, tuned: Artifact) -> None:
    examples = label_examples(30)
    task = read_held_out_task(dataset(store, examples[:10], examples), "test", None)
    with pytest.raises(RecipeError, match="holds labels"):
        expand_task_turns(replace(task))


def test_what_turns_share_is_read_once(base: Artifact, talks: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation's likelihoods cost the tokens of its longest row, and a little for each further one."""
    from luthier.chat.messages import answer_of, prompt_of
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models import generate
    from luthier.models.load import load_model

    read = []
    whole = generate.compute_pack_logprobs
    monkeypatch.setattr(
        generate, "compute_pack_logprobs", lambda model, pack: read.append(len(pack.ids)) or whole(model, pack)
    )
    loaded = load_model(base, dtype="float32")
    text = ChatTokenizer.load(Path(loaded.folder))
    task = expand_task_turns(read_held_out_task(talks, "test", None))
    turns = [one for one in task.examples if one.id.startswith(f"{23:016x}")]
    told = [text.options(prompt_of(one), [answer_of(one)]) for one in turns]
    sums = generate.score_options(loaded.model, [ids for ids, _ in told], [options for _, options in told])
    alone = [generate.score_options(loaded.model, [ids], [options])[0] for ids, options in told]
    assert [one for (one,) in sums] == pytest.approx([one for (one,) in alone], abs=1e-4)
    longest = max(len(ids) + len(options[0]) for ids, options in told)
    assert read[0] <= longest + 2 * len(turns)
