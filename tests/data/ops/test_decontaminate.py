"""Benchmarks and held-out rows stay unseen: every copy is listed with what it repeats, and strangers stay."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from luthier.chat.messages import Message
from luthier.core.errors import DataError
from luthier.data.dedup.contamination import LEAST_WORDS, RUN_WORDS, ContaminationIndex
from luthier.data.dedup.shingles import split_comparison_words
from luthier.data.ops.decontaminate import Decontaminate
from luthier.data.row import Row

Make = Callable[..., Any]
Write = Callable[..., str]
WORDS = [f"word{n}" for n in range(2000)]


def _texts(count: int, length: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.sample(WORDS, length)) for _ in range(count)]


def _changed(text: str, count: int, chance: random.Random) -> str:
    found = text.split()
    for at in chance.sample(range(len(found)), count):
        found[at] = f"other{chance.randrange(1000)}"
    return " ".join(found)


def _row(n: int, prompt: str, answer: str = "fine") -> Row:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Row(n, f"{n:016x}", "csv", "f.csv", n + 2, "chat", messages)


def _unseen(texts: list[str], **settings: float) -> ContaminationIndex:
    rows = [_row(n, text) for n, text in enumerate(texts)]
    named = ((f"exam.jsonl:{row.n + 1}", row) for row in rows)
    return ContaminationIndex(named, rows.__getitem__, **{"similarity": 0.85, "overlap": 0.2, **settings})


@pytest.mark.parametrize("length", [10, 20, 60])
def test_no_copy_with_a_tenth_of_its_words_changed_is_missed(length: int) -> None:
    texts = _texts(150, length)
    chance = random.Random(2)
    copies = [_row(n, _changed(text, length // 10, chance)) for n, text in enumerate(texts)]
    hits = _unseen(texts).hits(copies)
    assert [hit and hit.name for hit in hits] == [f"exam.jsonl:{n + 1}" for n in range(150)]
    assert all(hit and hit.how == "near copy" and hit.similarity == pytest.approx(0.9) for hit in hits)
    strangers = [_row(n, text) for n, text in enumerate(_texts(300, length, seed=3))]
    assert not any(_unseen(texts).hits(strangers))


def test_the_similarity_decides_and_nothing_else() -> None:
    texts = _texts(60, 20)
    chance = random.Random(4)
    for changed, found in ((2, True), (3, True), (4, False)):  # 0.9, 0.85 and 0.8
        rows = [_row(n, _changed(text, changed, chance)) for n, text in enumerate(texts)]
        hits = _unseen(texts, overlap=1.0).hits(rows)
        assert [hit is not None for hit in hits] == [found] * 60


def test_a_copy_inside_a_longer_text_is_found_by_its_runs() -> None:
    exam = _texts(1, 40)[0]
    around = _texts(2, 200, seed=9)
    whole = _row(0, f"{around[0]} {exam} {around[1]}")
    half = _row(1, f"{around[0]} {' '.join(exam.split()[:20])}, and more")
    in_answer = _row(2, "which exam?", exam.upper())
    little = _row(3, f"{' '.join(exam.split()[: RUN_WORDS - 1])} {around[1]}")
    hits = _unseen([exam]).hits([whole, half, in_answer, little])
    assert [hit and hit.similarity for hit in hits] == [1.0, 0.5, 1.0, None]
    assert hits[0]
    assert hits[0].how == f"runs of {RUN_WORDS} words"
    assert [hit is not None for hit in _unseen([exam], overlap=0.6).hits([whole, half])] == [True, False]


def test_short_texts_need_more_than_a_common_phrase() -> None:
    short, shorter = " ".join(WORDS[:LEAST_WORDS]), "how do i pay"
    around = _texts(1, 50)[0]
    hits = _unseen([short, shorter]).hits(
        [_row(0, f"{around} {short}"), _row(1, f"{shorter} {around}"), _row(2, "How do I pay?")]
    )
    assert [hit and hit.name for hit in hits] == ["exam.jsonl:1", None, "exam.jsonl:2"]


def test_words_are_told_apart_in_scripts_without_spaces() -> None:
    assert split_comparison_words("Is it 5%? don't_know") == ["is", "it", "5", "dontknow"]
    assert split_comparison_words("我的卡坏了 OK") == [*"我的卡坏了", "ok"]


def _asked(write: Write, rows: list[str], exam: list[str], **settings: Any) -> dict[str, Any]:
    write("exam.jsonl", [{"question": text, "answer": "42"} for text in exam])
    path = write("rows.jsonl", [{"prompt": text, "completion": f"answer {n}"} for n, text in enumerate(rows)])
    against = [{"kind": "jsonl", "path": "exam.jsonl"}]
    return {
        "source": {"kind": "jsonl", "path": path},
        "ops": [{"kind": "decontaminate", "against": against, **settings}],
        "split": {"test": 0},
        "task": "text",
    }


def test_rows_are_listed_with_the_line_that_they_repeat(make: Make, write: Write) -> None:
    texts = _texts(20, 30)
    asked = _asked(write, texts, [f"{texts[3]} indeed", _texts(1, 30, seed=8)[0], texts[11].upper()])
    made = make(**asked)
    listed = made.events.select("line", "reason", "twin", "similarity").rows()
    assert listed == [
        (4, "repeats a benchmark: near copy", "exam.jsonl:1", pytest.approx(30 / 31, abs=1e-6)),
        (12, "repeats a benchmark: near copy", "exam.jsonl:3", 1.0),
    ]
    assert made.summary.dropped == {"repeats a benchmark": 2}
    assert make(**asked, workers=2, batch_rows=3).files() == made.files()

    flagged = make(**_asked(write, texts, [texts[3]], action="flag"))
    assert flagged.summary.dropped == {}
    assert flagged.attributes("decontaminate")["repeats"].drop_nulls().to_list() == ["exam.jsonl:1"]


def test_training_rows_that_repeat_a_held_out_row_are_left_out(make: Make, write: Write) -> None:
    chance = random.Random(6)
    texts = [text for text in _texts(60, 30) for text in (text, _changed(text, 2, chance))]
    path = write("rows.jsonl", [{"prompt": text, "completion": f"answer {n}"} for n, text in enumerate(texts)])
    asked = {"source": {"kind": "jsonl", "path": path}, "split": {"test": 0.2, "validation": 0.1}, "task": "text"}
    made = make(**asked, ops=["decontaminate"])
    untouched = make(**asked, ops=[{"kind": "decontaminate", "held_out": False}])
    assert made.split("test").equals(untouched.split("test"))
    assert made.split("validation").equals(untouched.split("validation"))

    held_out = {
        row["line"]: row["id"] for name in ("test", "validation") for row in made.split(name).iter_rows(named=True)
    }
    twin_of = {line: line + 1 if line % 2 else line - 1 for line in range(1, 121)}
    training = set(untouched.split("train")["line"])
    wanted = {line: held_out[twin_of[line]] for line in training if twin_of[line] in held_out}
    drops = made.events.filter(pl.col("action") == "drop")
    assert dict(drops.select("line", "twin").rows()) == wanted
    assert 10 < len(wanted) < 60
    assert made.summary.dropped == {"repeats a held-out row": len(wanted)}
    assert made.summary.rows_in == 120 == sum(made.summary.rows.values()) + len(wanted)
    assert make(**asked, ops=["decontaminate"], batch_rows=7).files() == made.files()


def test_nothing_left_to_train_on_is_said(make: Make, write: Write) -> None:
    text = _texts(1, 30)[0]
    path = write("rows.jsonl", [{"prompt": f"{text} {n}", "completion": "x"} for n in range(12)])
    with pytest.raises(DataError, match="repeats a row that is held out"):
        make(source={"kind": "jsonl", "path": path}, ops=["decontaminate"], split={"test": 0.3}, task="text")


def test_what_is_wrong_with_a_benchmark_is_said_before_any_row_is_read(
    tmp_path: Path, make: Make, write: Write
) -> None:
    asked = _asked(write, _texts(5, 20), _texts(5, 20))
    (tmp_path / "exam.jsonl").unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        make(**asked)
    assert caught.value.where
    assert caught.value.where.file == "exam.jsonl"
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n{broken\n")
    with pytest.raises(DataError, match="is not JSON"):
        make(**asked)
    with pytest.raises(ValidationError):
        Decontaminate(similarity=0.3)


def test_the_benchmarks_bytes_are_part_of_the_name(tmp_path: Path, write: Write) -> None:
    from luthier.core.component import iter_components

    write("exam.jsonl", [{"question": "a", "answer": "b"}])
    operator = Decontaminate.model_validate({"against": [{"kind": "jsonl", "path": "exam.jsonl"}]})
    before = [part.fingerprint(tmp_path) for part in iter_components(operator)]
    write("exam.jsonl", [{"question": "a", "answer": "c"}])
    assert before != [part.fingerprint(tmp_path) for part in iter_components(operator)]
