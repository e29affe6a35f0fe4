"""The queue of items, on SQLite and on PostgreSQL: who gets what, what becomes of answers, many people at once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from luthier.annotation.project import (
    NewItem,
    ProjectSettings,
    add_items,
    create_project,
    list_guidelines,
    list_projects,
    set_project_state,
    update_guidelines,
    update_settings,
)
from luthier.annotation.question import Question, QuestionItem
from luthier.annotation.queue import AnnotationQueue, LeasedItem
from luthier.annotation.results import find_items
from luthier.core.db import Ledger
from luthier.core.errors import InputError, UnknownName
from tests import ready
from tests.annotation.conftest import TOPIC, MakeQueue, answer, item


def text(leased: LeasedItem | None) -> str:
    assert leased is not None
    return leased.shown.text


def take(queue: AnnotationQueue, person: str) -> LeasedItem:
    leased = queue.next_item(person)
    assert leased is not None
    return leased


def expire(queue: AnnotationQueue) -> None:
    """Let all time be over."""
    from sqlalchemy import update

    from luthier.core.db.tables.annotation import AssignmentRow

    with queue._ledger.writing() as session:
        session.execute(update(AssignmentRow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_items_come_in_order_and_each_goes_to_one_person(make_queue: MakeQueue) -> None:
    queue = make_queue(3)
    ann, ben = take(queue, "ann"), take(queue, "ben")
    assert (text(ann), text(ben)) == ("text 0", "text 1")
    assert take(queue, "ann").id == ann.id, "a page that is loaded anew goes on where it was"
    ahead = queue.next_item("ann", held=[ann.id])
    assert text(ahead) == "text 2"
    assert queue.next_item("ben", held=[ben.id]) is None
    assert queue.submit("ann", answer(ann)) == (True, False, False)
    assert queue.submit("ben", answer(ben)) == (True, False, False)
    assert text(queue.next_item("ann")) == "text 2"
    assert queue.progress() == (1, 2, 0, 0, 2)
    assert queue.person_progress("ann") == (1, True, 0)
    assert [(one.key, one.annotator, one.values) for one in queue.answers()] == [
        ("row-0", "ann", {"topic": "billing"}),
        ("row-1", "ben", {"topic": "billing"}),
    ]


def test_the_same_submission_is_kept_once(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    leased = take(queue, "ann")
    assert queue.submit("ann", answer(leased)).kept
    assert queue.submit("ann", answer(leased, "login")) == (False, False, True)
    assert [one.values for one in queue.answers()] == [{"topic": "billing"}]
    other = take(queue, "ben")
    assert queue.submit("ben", answer(other, id=f"submission-{leased.id}")).kept, "another person's ids are others"


def test_a_second_answer_replaces_the_first(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    leased = take(queue, "ann")
    queue.submit("ann", answer(leased))
    queue.submit("ann", answer(leased, "login", id="another-id"))
    assert [one.values for one in queue.answers()] == [{"topic": "login"}]
    assert queue.progress() == (0, 1, 0, 0, 1)


def test_only_who_had_an_item_answers_it_and_only_what_is_asked(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    leased = take(queue, "ann")
    with pytest.raises(UnknownName, match="not given to you"):
        queue.submit("ben", answer(leased))
    with pytest.raises(UnknownName):
        queue.submit("ann", answer(leased, item=leased.id + 1))
    for values in ({"topic": "nonsense"}, {}, {"topic": "login", "more": 1}):
        with pytest.raises(InputError):
            queue.submit("ann", answer(leased, values=values))
    assert list(queue.answers()) == []


def test_an_item_whose_time_is_over_goes_to_another_and_a_late_answer_is_kept(make_queue: MakeQueue) -> None:
    queue = make_queue(1)
    ann = take(queue, "ann")
    assert queue.next_item("ben") is None
    expire(queue)
    ben = take(queue, "ben")
    assert ben.id == ann.id
    assert queue.submit("ben", answer(ben)) == (True, False, False)
    assert queue.submit("ann", answer(ann, "login")) == (True, True, False)
    assert [(one.annotator, one.late) for one in queue.answers()] == [("ben", False), ("ann", True)]
    assert queue.progress() == (0, 1, 0, 0, 2)


def test_overlap_gives_an_item_to_so_many_people_and_to_nobody_twice(make_queue: MakeQueue) -> None:
    queue = make_queue(4, overlap=2)
    seen = Counter[str]()
    for person in ("ann", "ben", "cid"):
        while (leased := queue.next_item(person)) is not None:
            seen[text(leased)] += 1
            queue.submit(person, answer(leased))
    assert set(seen.values()) == {2}
    assert queue.progress() == (0, 4, 0, 0, 8)
    pairs = Counter((one.item, one.annotator) for one in queue.answers())
    assert set(pairs.values()) == {1}


def test_skip_passes_on_and_flag_waits_for_the_owner(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    first = take(queue, "ann")
    queue.submit("ann", answer(first, kind="skip", values={}))
    second = take(queue, "ann")
    assert second.id != first.id
    assert take(queue, "ben").id == first.id
    queue.submit("ann", answer(second, kind="flag", values={}, comment="what is this?"))
    assert queue.next_item("ann") is None
    assert queue.progress() == (1, 0, 1, 0, 0)
    queue.submit("ben", answer(first))
    queue.resolve_flag(second.id, "return")
    assert take(queue, "ann").id == second.id, "whoever flagged it gets it again"
    queue.submit("ann", answer(second, kind="flag", values={}, id="flagged-again"))
    queue.resolve_flag(second.id, "remove")
    assert queue.progress() == (0, 1, 0, 0, 1)


def test_undo_brings_the_last_item_back_to_the_same_person(make_queue: MakeQueue) -> None:
    queue = make_queue(3)
    assert queue.undo("ann") is None
    first = take(queue, "ann")
    queue.submit("ann", answer(first, "login"))
    second = take(queue, "ann")
    back = queue.undo("ann")
    assert back is not None
    assert (back.id, back.previous) == (first.id, {"topic": "login"})
    assert list(queue.answers()) == []
    assert text(queue.next_item("ann", held=[second.id])) == "text 0"
    assert text(queue.next_item("ben")) == "text 2"
    queue.submit("ann", answer(first, id="once-more"))
    flagged = take(queue, "ann")
    queue.submit("ann", answer(flagged, kind="flag", values={}))
    again = queue.undo("ann")
    assert again is not None
    assert again.id == flagged.id
    assert queue.progress().flagged == 0


def test_priorities_change_the_order_as_answers_come(make_queue: MakeQueue) -> None:
    queue = make_queue(items=[item(number, priority=number) for number in range(4)], order="priority")
    first = take(queue, "ann")
    assert text(first) == "text 3"
    queue.set_priorities({_look_at_all(queue)[1].id: 10.0})
    queue.submit("ann", answer(first))
    assert text(queue.next_item("ann")) == "text 1"


def _look_at_all(queue: AnnotationQueue) -> dict[int, LeasedItem]:
    """All items that nobody has, given back again."""
    found: dict[int, LeasedItem] = {}
    held: list[int] = []
    while (leased := queue.next_item("peek", held=held)) is not None:
        found[int(text(leased).split()[1])] = leased
        held.append(leased.id)
    for one in held:
        queue.release("peek", one)
    return found


def test_gold_is_mixed_in_and_qualification_comes_first(make_queue: MakeQueue) -> None:
    gold = [item(100 + number, gold={"topic": "login"}) for number in range(6)]
    queue = make_queue(items=[*(item(number) for number in range(3)), *gold], qualification=2)
    assert queue.person_progress("ann") == (0, False, 2)
    for label in ("login", "other", "login"):
        leased = take(queue, "ann")
        assert int(text(leased).split()[1]) >= 100
        queue.submit("ann", answer(leased, label))
    assert text(queue.next_item("ann")) == "text 0"
    assert [one.gold_right for one in queue.answers()] == [True, False, True]
    assert queue.person_progress("ann").qualified
    for _ in range(6):
        leased = take(queue, "ben")
        queue.submit("ben", answer(leased, "other"))
    assert queue.next_item("ben") is None, "who never gets it right gets nothing else"
    assert queue.progress() == (3, 0, 0, 6, 9)


def test_gold_comes_at_its_share(make_queue: MakeQueue) -> None:
    gold = [item(1000 + number, gold={"topic": "login"}) for number in range(40)]
    queue = make_queue(items=[*(item(number) for number in range(150)), *gold], gold_share=0.2)
    random.seed(3)
    for _ in range(100):
        leased = take(queue, "ann")
        queue.submit("ann", answer(leased))
    assert 10 <= sum(one.gold_right is not None for one in queue.answers()) <= 32


def test_proposals_are_hidden_for_a_share(make_queue: MakeQueue) -> None:
    proposed = [item(number, proposal={"topic": "login"}) for number in range(200)]
    queue = make_queue(items=proposed, hidden_proposal_share=0.3)
    shown = 0
    for _ in range(200):
        leased = take(queue, "ann")
        shown += leased.proposal is not None
        queue.submit("ann", answer(leased))
    assert 110 <= shown <= 170
    assert sum(one.proposal_shown for one in queue.answers()) == shown


def test_items_are_added_once(ledger: Ledger, make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    assert add_items(ledger, queue.project_id, [item(1), item(2), item(2)]) == 1
    assert queue.progress().items == 3


def test_guidelines_have_versions_and_a_narrower_question_is_refused(ledger: Ledger, make_queue: MakeQueue) -> None:
    queue = make_queue(3, guidelines="Read first.")
    leased = take(queue, "ann")
    queue.submit("ann", answer(leased))
    wider = {"topic": Question.parse({**TOPIC, "labels": ["billing", "login", "other", "bug"]})}
    changed = update_guidelines(ledger, queue.project_id, guidelines="Read twice.", questions=wider, by="owner")
    assert (changed.guideline_version, changed.settings.guidelines) == (2, "Read twice.")
    queue.submit("ann", answer(take(queue, "ann"), "bug"))
    assert [one.guideline_version for one in queue.answers()] == [1, 2]
    narrower = {"topic": Question.parse({**TOPIC, "labels": ["login", "other"]})}
    with pytest.raises(InputError, match="2 answers would become invalid"):
        update_guidelines(ledger, queue.project_id, questions=narrower, by="owner")
    assert [one.version for one in list_guidelines(ledger, queue.project_id)] == [2, 1]
    same = update_guidelines(ledger, queue.project_id, guidelines="Read twice.", by="owner")
    assert same.guideline_version == 2


def test_settings_change_and_a_closed_project_gives_nothing_out(ledger: Ledger, make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    leased = take(queue, "ann")
    queue.submit("ann", answer(leased))
    update_settings(ledger, queue.project_id, overlap=2)
    assert queue.progress() == (2, 0, 0, 0, 1)
    assert take(queue, "ben").id == leased.id
    set_project_state(ledger, queue.project_id, "closed")
    assert queue.next_item("cid") is None
    assert queue.submit("ben", answer(leased)).kept
    assert [one.id for one in list_projects(ledger, purpose="labeling")] == [queue.project_id]
    assert list_projects(ledger, purpose="review") == []


def test_until_gives_what_counted_at_that_moment(make_queue: MakeQueue) -> None:
    queue = make_queue(2)
    queue.submit("ann", answer(take(queue, "ann")))
    moment = datetime.now(UTC)
    queue.undo("ann")
    assert list(queue.answers()) == []
    assert [one.values for one in queue.answers(until=moment)] == [{"topic": "billing"}]


@pytest.mark.parametrize("overlap", [1, 3])
def test_many_people_at_once_lose_and_double_nothing(make_queue: MakeQueue, overlap: int) -> None:
    """Six people skip, undo, send twice, go away and come back; in the end each item has its answers."""
    queue = make_queue(40, overlap=overlap)
    failures: list[BaseException] = []

    def work(person: str, seed: int) -> None:
        chance = random.Random(seed)
        number, idle = 0, 0
        try:
            while idle < 20:
                leased = queue.next_item(person)
                if leased is None:
                    idle += 1
                    time.sleep(0.02)
                    continue
                number += 1
                sent = answer(leased, chance.choice(TOPIC["labels"]), id=f"{person}-{number:06}")
                luck = chance.random()
                if luck < 0.1:
                    queue.release(person, leased.id)
                elif luck < 0.2:
                    queue.submit(person, sent)
                    assert queue.submit(person, sent).duplicate
                    queue.undo(person)
                else:
                    queue.submit(person, sent)
        except BaseException as error:  # noqa: BLE001  # the test's own threads: the test fails with it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"person-{seed}", seed)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures
    answers = list(queue.answers())
    assert len({(one.item, one.annotator) for one in answers}) == len(answers) == 40 * overlap
    assert set(Counter(one.item for one in answers).values()) == {overlap}
    assert queue.progress() == (0, 40, 0, 0, 40 * overlap)


WORKER = """
import sys
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission
from luthier.core.db import Ledger
with Ledger(sys.argv[1]) as ledger:
    queue = AnnotationQueue(ledger, sys.argv[2])
    print("open", flush=True)
    while (leased := queue.next_item("ann")) is not None:
        queue.submit("ann", AnswerSubmission(id=f"answer-{leased.id}", item=leased.id, values={"topic": "login"}))
        print(leased.id, flush=True)
"""


def test_a_killed_process_loses_no_answer_that_it_was_told_is_kept(database: str, make_queue: MakeQueue) -> None:
    queue = make_queue(400)
    told: list[int] = []
    for round_ in range(4):
        command = [sys.executable, "-c", WORKER, database, queue.project_id]
        with ready.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout):
                if number:
                    told.append(int(line))
                if number == 10 + round_:
                    process.kill()
    kept = [one.item for one in queue.answers()]
    assert set(told) <= set(kept)
    assert len(set(kept)) == len(kept)


def test_no_statement_of_the_queue_goes_over_all_items(tmp_path: Path) -> None:
    """However many items wait, a person's next one and an answer are found by an index."""
    from sqlalchemy import event
    from sqlalchemy import text as sql

    with Ledger(tmp_path / "many.db") as ledger:
        settings = ProjectSettings.model_validate({"questions": {"topic": TOPIC}, "overlap": 2})
        project = create_project(ledger, "Many", settings, by="owner")
        assert add_items(ledger, project.id, map(item, range(5_000))) == 5_000
        queue, statements = AnnotationQueue(ledger, project.id), []
        take(queue, "ann")
        event.listen(ledger._engine, "before_cursor_execute", lambda *found: statements.append(found[2:4]))
        for number in range(20):
            queue.submit("ann", answer(take(queue, "ann"), id=f"number-{number:05}"))
        queries = {statement: values for statement, values in statements if statement.startswith("SELECT")}
        assert len(queries) > 5
        with ledger.reading() as session:
            session.execute(sql("ANALYZE"))
            for statement, values in queries.items():
                plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
                assert not [row for row in plan if str(row[-1]).startswith("SCAN annotation_items")], statement


def test_items_are_found_by_their_words(ledger: Ledger, make_queue: MakeQueue) -> None:
    queue = make_queue(
        items=[item(1), NewItem("other", QuestionItem(({"role": "user", "content": "Über 100 % \\ _x"},)))]
    )
    for search, expected in (
        ("über", ["other"]), ("100 %", ["other"]), ("_x", ["other"]), ("\\", ["other"]), ("TEXT 1", ["row-1"]),
        ("user", []), ("content", []), ("", ["row-1", "other"]),
    ):  # fmt: skip
        assert [one.item.key for one in find_items(ledger, queue.project_id, search=search)] == expected, search
