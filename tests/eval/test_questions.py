"""Questions beyond the rows: answered in order, kept by content, asked once, gone on with after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.events import Event, Events
from luthier.eval import respondent as module
from luthier.eval.ask import Model
from luthier.eval.ask import Question as Asking
from luthier.eval.kept import Kept
from luthier.eval.question import Likelihood, Question, Reading, Told, Writing, until
from luthier.eval.respondent import Respondent
from luthier.text.messages import Message

ASKING = Asking(normalise="sum", max_new_tokens=8, dtype="float32", likelihood=False)
CHAT = (Message(role="user", content="where is my parcel"),)


class Counting:
    """Answers with the length of what is asked, and remembers what it was asked."""

    def __init__(self, dies_at: int = 99) -> None:
        self.asked: list[Question] = []
        self.calls, self._dies_at = 0, dies_at

    def tell(self, questions: Sequence[Question]) -> list[Told]:
        self.calls += 1
        if self.calls == self._dies_at:
            raise KeyboardInterrupt
        self.asked += questions
        return [Told(logprob=float(len(str(one.as_json())))) for one in questions]


def questions(count: int) -> list[Question]:
    return [Likelihood(prompt="a" * number, answer="b") for number in range(count)]


def test_a_killed_asking_goes_on(tmp_path: Path, base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.TOGETHER, Likelihood, 4)
    heard: list[Event] = []
    first, events = Counting(dies_at=3), Events(heard.append).of("report")
    with pytest.raises(KeyboardInterrupt):
        Respondent("base", first, Kept(tmp_path, base, 1), events).ask(questions(18))
    second = Counting()
    told = Respondent("base", second, Kept(tmp_path, base, 1), events).ask(questions(18), about="riddles")
    assert second.asked == questions(18)[8:]
    assert [one.logprob for one in told] == [len(str(one.as_json())) for one in questions(18)]
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (18, 18, "riddles")


def test_what_is_known_depends_on_model_and_manner(tmp_path: Path, base: Artifact, tuned: Artifact) -> None:
    events = Events().of("report")
    for kept, again in ((Kept(tmp_path, base, 1), 1), (Kept(tmp_path, base, 1), 0), (Kept(tmp_path, base, 2), 1)):
        teller = Counting()
        Respondent("base", teller, kept, events).ask(questions(5))
        assert teller.calls == again
    teller = Counting()
    Respondent("tuned", teller, Kept(tmp_path, tuned, 1), events).ask(questions(5))
    assert teller.calls == 1


def test_a_torn_file_is_made_anew(tmp_path: Path, base: Artifact) -> None:
    events = Events().of("report")
    wanted = Respondent("base", Counting(), Kept(tmp_path, base, 1), events).ask(questions(5))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    teller = Counting()
    assert Respondent("base", teller, Kept(tmp_path, base, 1), events).ask(questions(5)) == wanted
    assert teller.calls == 1


def test_a_model_answers_every_kind(tmp_path: Path, base: Artifact) -> None:
    asked: list[Question] = [
        Likelihood(prompt="where is my", answer=" parcel"),
        Likelihood(prompt=CHAT, answer="delivery"),
        Likelihood(prompt=CHAT, answer="billing", greedy=True),
        Reading(text="where is my parcel " * 40),
        Writing(prompt="where is my", limit=5),
        Writing(prompt=CHAT, limit=7, until=("e",)),
        Writing(prompt="where is my", limit=5),
    ]
    respondent = Respondent("base", Model(base, ASKING), Kept(tmp_path, base, 1), Events().of("report"))
    told = respondent.ask(asked)
    assert all(one.logprob is not None and one.logprob < 0 for one in told[:4])
    assert told[2].greedy is not None
    assert told[3].tokens is not None
    assert told[3].tokens > 100
    assert told[4] == told[6]
    assert "e" not in (told[5].text or "")
    alone = [
        Respondent("base", Model(base, ASKING), Kept(tmp_path / "b", base, 1), Events().of("r")).ask([one])
        for one in asked
    ]
    for mine, (its,) in zip(told, alone, strict=True):
        assert mine.text == its.text
        assert (mine.logprob or 0) == pytest.approx(its.logprob or 0, abs=1e-4)


def test_until_ends_at_the_first() -> None:
    assert until("one, two. three", (".", ",")) == "one"
    assert until("one", ("",)) == "one"


def test_a_head_of_classes_neither_writes_nor_scores(base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "_classes", ("a", "b"))
    with pytest.raises(DataError, match="head of its own"):
        Model(base, ASKING).tell(questions(1))
