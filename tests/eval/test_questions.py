"""Questions of tasks: answered in order, kept by content, asked once, gone on with after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.evaluations import label_examples
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.core.events import Event, Events
from luthier.eval import respondent as module
from luthier.eval.ask import Desk, Model
from luthier.eval.ask import Question as Asking
from luthier.eval.baseline import Baseline
from luthier.eval.kept import Kept
from luthier.eval.question import Likelihood, Question, Reading, Told, Writing, until
from luthier.eval.respondent import Respondent
from luthier.eval.rows import Reply, Task
from luthier.eval.voice import Plain, Verb, Voice
from luthier.text.messages import Example, Message

ASKING = Asking(normalise="sum", max_new_tokens=8, dtype="float32", likelihood=False)
TASK = Task(kind="text", split="test", examples=tuple(label_examples(3)), available=3, options={})
CHAT = (Message(role="user", content="where is my parcel"),)


class Counting(Voice):
    """Answers with the length of what is asked, and remembers what it was asked."""

    able: frozenset[Verb] = frozenset({"tell"})

    def __init__(self, digest: str = "it", dies_at: int = 99) -> None:
        self.name = self.title = self.digest = digest
        self.asked: list[Question] = []
        self.calls, self._dies_at = 0, dies_at

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        raise NotImplementedError

    def tell(self, questions: Sequence[Question]) -> list[Told]:
        self.calls += 1
        if self.calls == self._dies_at:
            raise KeyboardInterrupt
        self.asked += questions
        return [Told(logprob=float(len(str(one.as_json())))) for one in questions]


def respondent(voice: Voice, folder: Path, heard: list[Event] | None = None) -> Respondent:
    events = Events((heard if heard is not None else []).append).of("report")
    return Respondent(voice=voice, task=TASK, kept=Kept(folder), events=events)


def questions(count: int) -> list[Question]:
    return [Likelihood(prompt="a" * number, answer="b") for number in range(count)]


def test_a_killed_asking_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.TOGETHER, Likelihood, 4)
    heard: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        respondent(Counting(dies_at=3), tmp_path).tell(questions(18))
    second = Counting()
    told = respondent(second, tmp_path, heard).tell(questions(18), "riddles")
    assert second.asked == questions(18)[8:]
    assert [one.logprob for one in told] == [len(str(one.as_json())) for one in questions(18)]
    assert (heard[-1].done, heard[-1].total, heard[-1].unit) == (18, 18, "riddles")


def test_nobody_is_asked_twice(tmp_path: Path) -> None:
    for digest, calls in (("one", 1), ("one", 0), ("other", 1)):
        voice = Counting(digest)
        respondent(voice, tmp_path).tell(questions(5))
        assert voice.calls == calls


def test_a_torn_file_is_made_anew(tmp_path: Path) -> None:
    wanted = respondent(Counting(), tmp_path).tell(questions(5))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    voice = Counting()
    assert respondent(voice, tmp_path).tell(questions(5)) == wanted
    assert voice.calls == 1


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
    model = Model(base, ASKING, Desk(), name="base", title="the base model")
    told = respondent(model, tmp_path).tell(asked)
    assert all(one.logprob is not None and one.logprob < 0 for one in told[:4])
    assert told[2].greedy is not None
    assert (told[3].tokens or 0) > 100
    assert told[4] == told[6]
    assert "e" not in (told[5].text or "")
    for mine, (its,) in zip(told, [respondent(model, tmp_path).tell([one]) for one in asked], strict=True):
        assert mine.text == its.text
        assert (mine.logprob or 0) == pytest.approx(its.logprob or 0, abs=1e-4)


def test_until_ends_at_the_first() -> None:
    assert until("one, two. three", (".", ",")) == "one"
    assert until("one", ("",)) == "one"


def test_who_cannot_tell_says_so(base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(base, ASKING, Desk(), name="base", title="the base model")
    assert "tell" in model.able
    monkeypatch.setattr(Model, "_classes", ("a", "b"))
    assert "tell" not in Model(base, ASKING, Desk(), name="base", title="the base model").able
    plain = Plain(Baseline.parse("majority"), ())
    with pytest.raises(ModelError, match="cannot answer the questions of a task"):
        plain.tell(questions(1))
