"""Asking people in the studio: from an evaluation to a study, judged by several through the queue, and back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from luthier.annotation.project import AnnotationProject
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission, LeasedItem
from luthier.cli.app import run_command
from luthier.commands.projects.arena import Arena
from luthier.commands.projects.judging import StudyRequest, open_study
from luthier.commands.projects.trial import TrialPiece, TrialQuestion
from luthier.core.db import Ledger
from luthier.core.errors import InputError, LuthierError
from luthier.eval.human.rating import list_studies
from luthier.recipe.workspace import Workspace
from luthier.studio.app import build_app
from luthier.studio.state import Studio
from studio.conftest import URL, Browser
from tiny_models import RECIPE, own_cache, small_recipe, tickets, write_csv

HOSTILE = "</p><script>alert(1)</script>{{ 7 * 7 }}"
STEPS = """
  pairs: {kind: preferences, human_ratings: people}
  release: {kind: gate, human_ratings: people, rules: ["people.points >= 0.2", "people.attention_checks > 0.5"]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one project whose evaluation is made; a class and a message are hostile."""
    folder = tmp_path_factory.mktemp("judging")
    project = folder / "tickets"
    recipe = RECIPE.replace("[normalize, exact_dedup]", "[exact_dedup]").replace("accuracy, macro_f1", "chrf")
    recipe = recipe.replace("{test: 30}", "{test: 30}\n    task: text")
    small_recipe(project, recipe[: recipe.index("  gate:")])
    rows = [
        {**row, "category": f"{row['category']} {HOSTILE}", "message": f"{row['message']} {HOSTILE}"}
        for row in tickets(90)
    ]
    write_csv(project / "tickets.csv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(project)
        assert run_command(["run", "--only", "report"]) == 0
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "work", symlinks=True)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def studio(workspace: Path) -> Iterator[Studio]:
    with Ledger(workspace / ".luthier/ledger.db") as ledger:
        made = Studio(ledger=ledger, workspace=Workspace.open(workspace))
        yield made
        made.studies.close()


@pytest.fixture
def browser(studio: Studio) -> Browser:
    found = Browser(build_app(studio), base_url=URL)
    assert found.get(f"/open?token={studio.sessions.create_link_token()}").status_code == 200
    return found


def _study(studio: Studio, **changes: object) -> AnnotationProject:
    asked = {"evaluation": "report", "models": ("tuned", "base"), "question": {"kind": "pair"}, "rows": 30, **changes}
    file = studio.find_recipe("tickets")
    return open_study(studio.workspace, studio.ledger, file, StudyRequest(**asked), by="owner")  # type: ignore[arg-type]


def _judge(studio: Studio, study: AnnotationProject, person: str, say: Callable[[LeasedItem], object]) -> int:
    """Let a person judge all that there is."""
    queue, count = AnnotationQueue(studio.ledger, study.id), 0
    while (leased := queue.next_item(person)) is not None:
        values = {"judgment": say(leased)}
        queue.submit(person, AnswerSubmission(id=f"{person}-{leased.id}", item=leased.id, values=values, seconds=4.0))
        count += 1
    return count


def _good(studio: Studio, study: AnnotationProject, leased: LeasedItem) -> int | None:
    """The place of the answer of the tuned model, or of the right one among planted ones."""
    from luthier.core.db.tables.annotation import AnnotationItemRow

    with studio.ledger.reading() as session:
        row = session.get_one(AnnotationItemRow, leased.id)
        swapped = list(leased.shown.answers) != row.shown["answers"]
        if len(leased.shown.answers) < 2:
            return 0 if row.hidden["models"] == ["tuned"] else None
        kept = "AB".index(row.gold["judgment"]) if row.gold else row.hidden["models"].index("tuned")
        return 1 - kept if swapped else kept


def _prefers_tuned(studio: Studio, study: AnnotationProject) -> Callable[[LeasedItem], object]:
    def say(leased: LeasedItem) -> object:
        good = _good(studio, study, leased)
        assert good is not None
        return "AB"[good]

    return say


def test_from_an_evaluation_to_people_and_back(
    studio: Studio,
    browser: Browser,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = browser.get("/projects/tickets/judge")
    assert page.status_code == 200
    assert 'value="tuned"' in page.text
    form = {"evaluation": "report", "models": ["tuned", "base"], "kind": "pair", "rows": "30", "overlap": "2"}
    began = browser.submit("/projects/tickets/judge", **form, checks="8")
    assert began.history, began.text
    (progress,) = studio.studies.list_all()
    study = progress.study
    assert "annotators: open" in (workspace / "tickets/recipe.yaml").read_text()
    assert progress.planted == 8
    people = {person: _judge(studio, study, person, _prefers_tuned(studio, study)) for person in ("anna", "ben")}
    assert all(count > 5 for count in people.values())
    shown = browser.get(f"/judge/{study.id}/results")
    assert shown.status_code == 200, shown.text
    for words in ("tuned", "base", "anna", "ben", "people with each other", "Strengths"):
        assert words in shown.text
    standings = studio.studies.standings(study)
    checks = [judge.attention_checks or (0, 0) for judge in standings.judges]
    assert standings.judgments == sum(people.values()) - sum(rated for _, rated in checks) == 60
    assert all(right == rated for right, rated in checks)
    assert standings.agreement[0].share == 1.0
    assert standings.pairs[0].share is not None

    used = browser.submit(f"/judge/{study.id}/use")
    assert used.history
    recipe = workspace / "tickets/recipe.yaml"
    assert "kind: human_ratings" in recipe.read_text()
    recipe.write_text(recipe.read_text().rstrip("\n") + STEPS)
    monkeypatch.chdir(workspace / "tickets")
    capsys.readouterr()
    assert run_command(["run", "--json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    verdict = json.loads((Path(result["steps"]["release"]["path"]) / "gate.json").read_text())
    assert [rule["verdict"] for rule in verdict["rules"]] == ["PASS", "PASS"]
    human = json.loads((Path(result["steps"]["people"]["path"]) / "human_eval.json").read_text())
    assert human["judgments"] == standings.judgments
    assert 0.2 < human["numbers"]["people.first_shown"]["value"] < 0.8
    assert (Path(result["steps"]["pairs"]["path"]) / "examples/train.parquet").is_file()
    assert run_command(["report", "--to", "r.md"]) == 0
    assert "What people say" in Path("r.md").read_text()
    capsys.readouterr()
    assert run_command(["rate", ":ask", "--status"]) == 0
    assert "anna" in capsys.readouterr().out


def test_who_judges_never_meets_a_models_name_and_the_sides_change(
    studio: Studio, browser: Browser, workspace: Path
) -> None:
    study = _study(studio, attention_checks=3)
    addresses = ["/judge", f"/judge/{study.id}", "/label", f"/label/{study.id}", f"/label/{study.id}/guidelines"]
    for address in addresses:
        page = browser.get(address)
        assert page.status_code == 200, address
        assert "tuned" not in page.text
        assert "base" not in page.text.replace("data-base", "")
    queue, orders = AnnotationQueue(studio.ledger, study.id), set[bool]()
    for _ in range(40):
        answer = browser.submit(f"/label/{study.id}/next", held="[]").json()
        if answer["item"] is None:
            break
        text = json.dumps(answer)
        assert "tuned" not in text
        assert '"base"' not in text
        assert "gold" not in text
        assert "<script>alert" not in answer["item"]["html"]
        assert "&lt;script&gt;alert(1)" in answer["item"]["html"]
        send = {"id": f"browser-{answer['item']['id']}", "item": answer["item"]["id"], "values": {"judgment": "A"}}
        assert browser.submit(f"/label/{study.id}/submit", submission=json.dumps(send)).json()["kept"]
        orders |= {one.values["judgment"] == "A" for one in queue.answers()}
    assert orders == {True, False}, "who always takes the first does not always take the same side as it is kept"
    assert queue.undo(next(one.annotator for one in queue.answers())).previous == {"judgment": "A"}  # type: ignore[union-attr]
    results = browser.get(f"/judge/{study.id}/results").text
    assert "<script>alert" not in results
    assert "{{" not in results


@pytest.mark.matrix("rubric", "faults")
@pytest.mark.parametrize(
    ("question", "value"),
    [
        ({"kind": "rating"}, lambda good: 5 if good else 1),
        ({"kind": "rubric"}, lambda good: dict.fromkeys(("correct", "complete", "clear"), 3 if good else 0)),
        ({"kind": "faults"}, lambda good: [] if good else [{"start": 0, "end": 1, "severity": "major"}]),
    ],
    ids=["rating", "rubric", "faults"],
)
def test_answers_are_judged_one_by_one_too(
    studio: Studio, browser: Browser, workspace: Path, question: dict[str, str], value: Callable[[bool], object]
) -> None:
    study = _study(studio, question=question, attention_checks=3)

    def say(leased: LeasedItem) -> object:
        return value(_good(studio, study, leased) is not None or not leased.shown.answers[0])

    assert _judge(studio, study, "anna", say) > 40
    standings = studio.studies.standings(study)
    assert standings.judges[0].counts
    assert standings.pairs[0].rows == 30
    assert browser.get(f"/judge/{study.id}/results").status_code == 200


def _ranks(studio: Studio, study: AnnotationProject) -> dict[str, float]:
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    item = AnnotationItemRow
    with studio.ledger.reading() as session:
        wanted = select(item.key, item.rank).where(item.project_id == study.id)
        rows = session.execute(wanted).all()
        return dict(zip([row[0] for row in rows], [row[1] for row in rows], strict=True))


def test_items_are_put_in_order_as_judgments_come(studio: Studio, workspace: Path) -> None:
    recipe = workspace / "tickets/recipe.yaml"
    assert studio.studies.list_all() == []
    study = _study(studio)
    queue = AnnotationQueue(studio.ledger, study.id)
    assert studio.studies.standings(study).judgments == 0
    leased = queue.next_item("anna")
    assert leased is not None
    queue.submit("anna", AnswerSubmission(id="anna-first", item=leased.id, values={"judgment": "A"}))
    assert not studio.studies.reorder(study), "with two models, no pair comes before another"
    assert studio.studies.standings(study).judgments == 1, "what reordering read counts too"
    assert "annotators: open" in recipe.read_text()

    several = _study(studio, models=("tuned", "base", "nearest"), rows=20)
    assert len(list_studies(studio.ledger, several.settings.assignment)) == 1
    assert not studio.studies.reorder(several), "nobody has judged"
    queue = AnnotationQueue(studio.ledger, several.id)
    for number in range(24):
        leased = queue.next_item("anna")
        assert leased is not None
        values = {"judgment": "A" if leased.shown.answers[0] > leased.shown.answers[1] else "B"}
        queue.submit("anna", AnswerSubmission(id=f"anna-{number:04d}", item=leased.id, values=values))
    before = _ranks(studio, several)
    assert studio.studies.reorder(several)
    assert _ranks(studio, several) != before
    assert not studio.studies.reorder(several), "nothing was judged since"
    assert len(studio.studies.standings(several).pairs) == 3
    studio.studies.advance()


def test_what_cannot_be_is_refused_and_the_recipe_stays(studio: Studio, browser: Browser, workspace: Path) -> None:
    recipe = workspace / "tickets/recipe.yaml"
    text = recipe.read_text()
    for changes, words in (
        ({"models": ["tuned"]}, "2 different models"),
        ({"kind": "choice"}, "question"),
        ({"rows": "many"}, "whole number"),
        ({"evaluation": "nothing"}, "there is no evaluation"),
        ({"step": "report"}, "report"),
    ):
        form = {"evaluation": "report", "models": ["tuned", "base"], "kind": "pair", "rows": "30", **changes}
        page = browser.submit("/projects/tickets/judge", **form)
        assert page.status_code == 400, changes
        assert words in page.text, changes
    assert recipe.read_text() == text
    assert browser.get("/judge/nothing").status_code == 404
    assert browser.get("/judge").status_code == 200
    study = _study(studio)
    recipe.write_text(text)
    studio.studies.close()
    with pytest.raises(InputError, match="no longer asks"):
        studio.studies.take_up(study)


def test_the_arena_is_blind_until_the_vote_and_counts_it_once(studio: Studio, browser: Browser) -> None:
    arena, seen = Arena(studio.ledger, "tickets"), set[str]()
    for number in range(24):
        battle = arena.add(f"question {number}", {"good": f"right {HOSTILE}", "bad": "wrong"}, "anna")
        assert set(battle.answers) == {f"right {HOSTILE}", "wrong"}
        side = "AB"[battle.answers.index(f"right {HOSTILE}")]
        seen.add(side)
        reveal = arena.vote(battle.key, side, "anna")
        assert reveal.models["AB".index(side)] == "good"
        again = arena.vote(battle.key, "tie", "anna")
        assert again == reveal
        with pytest.raises(LuthierError, match="not one of yours"):
            arena.vote(battle.key, "A", "ben")
    assert seen == {"A", "B"}
    standings = arena.standings()
    assert standings.votes == 24
    assert standings.pairs[0].better == "good"
    assert standings.strengths[0].name == "good"
    rows = [json.loads(line) for line in browser.get("/projects/tickets/arena/preferences.jsonl").text.splitlines()]
    assert {row["rejected"] for row in rows} == {"wrong"}
    page = browser.get("/projects/tickets/arena").text
    assert "good" in page
    assert "<script>alert" not in page
    project = AnnotationQueue(studio.ledger, arena._find().id)  # type: ignore[union-attr]
    arena.add("mine alone", {"good": "x", "bad": "y"}, "anna")
    assert project.next_item("ben") is None
    refused = browser.submit("/projects/tickets/arena/ask", prompt="hello")
    assert "the models are not served" in refused.text


class _Served:
    """Two models that answer at once, in the place of a server."""

    words: ClassVar = ["tickets/recipe.yaml:tune", "tickets/recipe.yaml:model"]
    names, state, message = ("good", "bad"), "ready", ""

    async def answer(self, question: TrialQuestion) -> AsyncIterator[TrialPiece]:
        for text in (f"{'right' if question.model == 'good' else 'wrong'} ", HOSTILE):
            yield TrialPiece(text, ())


def test_two_served_models_answer_a_prompt_on_the_page(studio: Studio, browser: Browser) -> None:
    assert "Who competes" in browser.get("/projects/tickets/arena").text
    assert "choose at least two" in browser.submit("/projects/tickets/arena/start", words="nothing").text
    studio.trial = _Served()  # type: ignore[assignment]
    assert "Let two of them answer" in browser.get("/projects/tickets/arena").text
    for number in range(3):
        battle = browser.submit("/projects/tickets/arena/ask", prompt=f"{number} {HOSTILE}").text
        assert "right" in battle
        assert "wrong" in battle
        shown = re.sub(r'value="[0-9a-f]+"', "", battle)  # tokens and keys may spell anything
        assert "good" not in shown.replace("notice good", "")
        assert "bad" not in shown
        assert "<script>alert" not in battle
        key = battle.partition('name="key" value="')[2].partition('"')[0]
        told = browser.submit("/projects/tickets/arena/vote", key=key, vote="A").text
        assert "You preferred A: " in told
        assert browser.submit("/projects/tickets/arena/vote", key=key, vote="C").status_code == 200, "the first counts"
    assert "3 votes" in browser.get("/projects/tickets/arena").text
    assert browser.submit("/projects/tickets/arena/vote", key="x", vote="A").status_code == 404
    assert "expected a question" in browser.submit("/projects/tickets/arena/ask", prompt=" ").text
