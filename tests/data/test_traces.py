"""Back to data: requests and what people said of them become rows, pairs, verdicts and classes, and the next recipe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.artifacts.dataset import list_splits, read_examples
from luthier.artifacts.media import MediaReader
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.cli.app import run_command
from luthier.core.errors import DataError
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.sources.traces import Traces, choose_trace_target
from luthier.recipe.schema import Recipe
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Feedback
from luthier.traces.recorder import TraceRecorder
from luthier.traces.retention import RetentionPolicy
from tests.traces.conftest import DAY, opinion, trace
from vision_models import picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    return tmp_path


def fill(base: Path, *records: Any) -> None:
    append_redacted_records(base / ".luthier" / "traffic", records)


def read(base: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and why others were left out."""
    found = list(Traces.model_validate({"kind": "traces", **settings}).read(base, lambda text: None))
    assert all(one.left_out for one in found if isinstance(one, BrokenRow))
    rows = [one.values for one in found if isinstance(one, SourceRecord)]
    return rows, {str(one.key): one.problem for one in found if isinstance(one, BrokenRow)}


def test_each_way_to_learn_from_what_was_said(here: Path) -> None:
    fill(
        here,
        trace(1),
        trace(2, user="C-2"),
        trace(3),
        trace(4),
        opinion(1, rating=1, by="anna"),
        opinion(1, rating=0, by="ben"),
        opinion(2, rating=-1, correction="At the depot."),
        opinion(3, label="delivery"),
        opinion(4, rating=-1),
    )
    rows, left = read(here)
    assert [row["messages"][-1]["content"] for row in rows] == ["On its way.", "At the depot.", "On its way."]
    assert rows[1]["messages"][0] == {"role": "user", "content": "Where is parcel 2?"}
    assert (rows[1]["trace"], rows[1]["user"], rows[1]["rating"]) == ("chatcmpl-2", "C-2", -1)
    assert left == {"trace = chatcmpl-4": "people did not like the answer, and nobody said a better one"}
    (pair,), _ = read(here, makes="pairs")
    assert (pair["chosen"], pair["rejected"]) == ("At the depot.", "On its way.")
    (label,), _ = read(here, makes="labels")
    assert (label["text"], label["label"]) == ("Where is parcel 3?", "delivery")
    verdicts, _ = read(here, makes="verdicts")
    assert [(row["trace"], row["label"]) for row in verdicts] == [
        ("chatcmpl-1", True),
        ("chatcmpl-2", False),
        ("chatcmpl-4", False),
    ]


def test_what_may_not_or_cannot_be_learnt_from_is_left_out_with_its_reason(here: Path) -> None:
    fill(
        here,
        trace(1, consent=False),
        trace(2, answer=None, finish_reason="error", status=500),
        trace(3, finish_reason="cancelled"),
        trace(4, messages=()),
        trace(5, variant="shadow"),
        trace(6, operation="embedding"),
        trace(7),
        opinion(7, rating=0),
        trace(8),
        opinion(8, correction=" On its way. "),
    )
    rows, left = read(here)
    assert [row["trace"] for row in rows] == ["chatcmpl-7", "chatcmpl-8"]
    assert [*left.values()] == [
        "nobody may learn from it (consent)",
        "was not answered",
        "was not answered",
        "what was asked was not kept",
    ]
    assert read(here, makes="pairs") == ([], {"trace = chatcmpl-8": "the correction says the same"})
    assert read(here, makes="verdicts") == ([], {"trace = chatcmpl-7": "people are of two minds"})


def test_traffic_stands_still_below_a_moment(here: Path) -> None:
    fill(here, *(trace(number) for number in range(10)))
    fixed = Traces.model_validate({"kind": "traces", "until": (DAY + timedelta(minutes=5)).isoformat()})
    before, size = fixed.fingerprint(here), fixed.size(here)
    whole = Traces.model_validate({"kind": "traces"}).fingerprint(here)
    fill(here, trace(11), opinion(2, correction="Later."))
    assert (fixed.fingerprint(here), fixed.size(here)) == (before, size)
    assert Traces.model_validate({"kind": "traces"}).fingerprint(here) != whole
    assert len(read(here, until=(DAY + timedelta(minutes=5)).isoformat())[0]) == 5
    assert len(read(here, since=(DAY + timedelta(minutes=5)).isoformat(), where="model = 'support@prod'")[0]) == 6


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"where": "ratng < 0"}, "did you mean 'rating'"),
        ({"since": "2026-11-02T00:00:00Z", "until": "2026-11-01T00:00:00Z"}, "not before"),
        ({"until": "2026-11-01T00:00:00"}, "timezone"),
        ({"makes": "poems"}, "Input should be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Traces.model_validate({"kind": "traces", **settings})


def test_what_is_made_is_chosen_by_what_was_said(here: Path) -> None:
    fill(here, trace(1), trace(2), trace(3), opinion(1, correction="No."))
    assert choose_trace_target(here, {}) == "pairs"
    fill(here, opinion(2, label="a"), opinion(3, label="b"))
    assert choose_trace_target(here, {}) == "labels"
    fill(here, trace(4), opinion(4, rating=1), trace(5), opinion(5, rating=-1))
    assert choose_trace_target(here, {"where": "rating > 0"}) == "chat"
    with pytest.raises(DataError, match="learnt from"):
        choose_trace_target(here, {"where": "rating < 0"})


def test_the_correction_of_a_class_is_the_true_class(here: Path) -> None:
    told = (Message(role="system", content="Answer with one of: a, b."), Message(role="user", content="Where?"))
    fill(here, *(trace(number, operation="label", messages=told) for number in (1, 2, 3)))
    fill(here, opinion(1, rating=-1, correction="b"), opinion(2, label="a", correction="b"), opinion(3, rating=1))
    assert choose_trace_target(here, {}) == "labels"
    rows, _ = read(here, makes="labels")
    assert [(row["text"], row["label"], row["system"]) for row in rows] == [
        ("Where?", "b", "Answer with one of: a, b."),
        ("Where?", "a", "Answer with one of: a, b."),
    ]
    assert run_command(["new", "again", "--from", "traces"]) == 0
    steps = yaml.safe_load(Path("again/recipe.yaml").read_text(encoding="utf-8"))["steps"]
    source = steps["data"]["source"]
    assert (source["makes"], source["system_column"], source["answer"]) == ("labels", "system", "label")
    assert "system" not in source
    assert steps["tune"]["objective"] == "sft"


def _talk(number: int) -> list[Any]:
    """A request, and what its answer should have been."""
    asked = Message(role="user", content=f"Where is parcel number {number * 7919 % 1000} of anna{number}@example.org?")
    kept = trace(number, messages=(asked,), user=f"C-{number % 9}")
    said = Feedback(
        trace=kept.id, timestamp=kept.timestamp, rating=-1, correction=f"It waits in depot {number * 31 % 97}."
    )
    return [kept, said]


def test_a_recipe_is_written_from_what_went_wrong_and_its_data_prepared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(here, *(record for number in range(60) for record in _talk(number)), trace(99), opinion(99, rating=1))
    assert run_command(["new", "again", "--from", "traces", "--where", "rating < 0"]) == 0
    assert "people said what answers should have been" in capsys.readouterr().out
    text = (here / "again" / "recipe.yaml").read_text()
    assert "objective: dpo" in text
    assert "path: ../.luthier/traffic" in text or 'path: "../.luthier/traffic"' in text
    recipe = Recipe.load(here / "again" / "recipe.yaml")
    source = recipe.steps["data"].source  # type: ignore[attr-defined]  # a step `prepare`
    assert (source.makes, source.where) == ("pairs", "rating < 0")
    assert source.until <= datetime.now(UTC)
    only_data = yaml.safe_load(text)
    only_data["steps"] = {"data": only_data["steps"]["data"]}
    (here / "again" / "data.yaml").write_text(yaml.safe_dump(only_data))
    made = Recipe.load(here / "again" / "data.yaml").run()["data"].artifact
    examples = [one for split in ("train", "test") for one in read_examples(made, split)]
    assert len(examples) == 60
    example = next(one for one in examples if one.meta["trace"] == "chatcmpl-3")
    assert example.origin.file == "traces/2026-11-20"
    assert example.messages[-1].content.startswith("It waits in depot")
    assert example.meta["rejected"] == "On its way."
    assert "[EMAIL]" in example.messages[0].content
    train, test = ({one.meta["user"] for one in read_examples(made, split)} for split in ("train", "test"))
    assert not train & test


def test_new_from_traces_says_what_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["new", "again", "--from", "traces"]) == 2
    assert "no traffic is kept" in capsys.readouterr().err
    fill(here, trace(1))
    assert run_command(["new", "again", "--from", "traces", "--where", "ratng < 0"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert run_command(["new", "again", "--where", "rating < 0"]) == 2
    assert "--from traces" in capsys.readouterr().err
    assert not (here / "again").exists()


def test_requests_with_pictures_become_rows_with_their_pictures(here: Path) -> None:
    media, contents = zip(*(picture(seed) for seed in range(4)), strict=True)
    turns = [
        Message(role="user", content=f"What is {MEDIA_MARK} broken?", media=(media[0],)),
        Message(role="user", content=f"{MEDIA_MARK}{MEDIA_MARK}Which is older?", media=media[1:3]),
        Message(role="user", content=f"And {MEDIA_MARK}?", media=(media[3],)),
        Message(role="user", content=f"A typed <image> beside {MEDIA_MARK}", media=(media[0],)),
        Message(role="user", content="A typed <image> alone"),
    ]
    traffic = here / ".luthier" / "traffic"
    answers = [Message(role="assistant", content=f"Number {number}.") for number in range(len(turns))]
    fill(here, *(trace(at, messages=(turn,), answer=answers[at]) for at, turn in enumerate(turns)))
    fill(here, opinion(0, rating=-1, correction="The lid.", label="lid"), opinion(1, label="left", rating=1))
    with TraceRecorder(traffic, RetentionPolicy(media="bytes")) as recorder:
        recorder.keep_media(dict(zip(media[:3], contents, strict=False)))
    rows, left = read(here)
    assert [row["trace"] for row in rows] == ["chatcmpl-0", "chatcmpl-1", "chatcmpl-4"]
    assert "were not kept" in left["trace = chatcmpl-2"]
    assert "typed <image>" in left["trace = chatcmpl-3"]
    for makes, count in (("chat", 3), ("pairs", 1), ("verdicts", 2), ("labels", 2)):
        (here / "recipe.yaml").write_text(
            yaml.safe_dump(
                {
                    "luthier": 1,
                    "name": "again",
                    "steps": {"data": {"kind": "prepare", "source": {"kind": "traces", "makes": makes}, "split": {}}},
                }
            )
        )
        made = Recipe.load(here / "recipe.yaml").run()["data"].artifact
        examples = {one.meta["trace"]: one for split in list_splits(made) for one in read_examples(made, split)}
        assert len(examples) == count, makes
        first = examples["chatcmpl-0"].messages[0]
        assert first.content == f"What is {MEDIA_MARK} broken?"
        assert [medium.digest for medium in first.media] == [media[0].digest]
        with MediaReader(made) as reader:
            assert reader.read(media[0].digest) == contents[0]
        if count > 1:
            assert [medium.digest for medium in examples["chatcmpl-1"].messages[0].media] == [
                medium.digest for medium in media[1:3]
            ]


def test_addresses_stay_unread_and_rows_with_pictures_can_be_left_out(here: Path) -> None:
    medium, _ = picture(1)
    fill(here, trace(1, messages=(Message(role="user", content=f"{MEDIA_MARK}?", media=(medium,)),)), trace(2))
    kept, left = read(here, media="keep")
    assert kept[0]["messages"][0]["content"][0] == {
        "type": "image",
        "image": f"{medium.digest[:2]}/{medium.digest}.png",
    }
    assert left == {}
    source = Traces.model_validate({"kind": "traces", "media": "drop"})
    found = list(source.mapped(here, lambda text: None))
    assert [one.problem for one in found if isinstance(one, BrokenRow)] == ["holds images"]
