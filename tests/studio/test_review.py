"""The pages of review: queues, a request with what stands beside it, opinions, figures and the next round."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from luthier.annotation.queue import AnnotationQueue
from luthier.chat.media_codec import keep_media
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.cli.app import run_command
from luthier.commands.review.fill import fill_review_queue
from luthier.commands.review.queues import ReviewQueue, get_review_queue, list_review_queues
from luthier.commands.review.similar import build_text_index
from luthier.commands.review.verdicts import iterate_reviewed_items
from luthier.studio.routes.review import compare_texts
from luthier.studio.state import Studio
from luthier.traces.feedback import append_redacted_records
from luthier.traces.media import write_trace_media
from luthier.traces.record import Feedback, Trace
from luthier.traces.store import read_feedback
from media import picture, sound
from studio.conftest import RECIPE, Browser
from studio.test_attacks import BREAKS, SCRIPT, _is_plain

BEGIN = datetime.now(UTC) - timedelta(hours=3)


def trace(number: int, **more: Any) -> Trace:
    told: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "timestamp": BEGIN + timedelta(seconds=number),
        "model": "tickets@prod",
        "release": "abc123",
        "messages": (Message(role="user", content=f"where is my parcel number {number}"),),
        "answer": Message(role="assistant", content="It is on its way to you."),
        "latency_s": 1.25,
        "meta": {"channel": ("mail", "chat")[number % 2]},
    }
    return Trace(**told | more)


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "for tests")
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.setattr("luthier.commands.review.fill.ReviewFiller.start", lambda self: None)


def keep(project: Path, *records: Trace | Feedback) -> Path:
    folder = project / ".luthier/traffic"
    append_redacted_records(folder, records)
    return folder


def begin(browser: Browser, studio: Studio, **fields: str) -> ReviewQueue:
    """A queue that was made by the form, and filled."""
    told = {"name": "Daily", "project": "tickets", "chance": "100", "days": "7", "low_confidence": "0", **fields}
    answer = browser.submit("/review", **told)
    assert answer.status_code == 200, answer.text
    queue = list_review_queues(studio.ledger)[0]
    fill_review_queue(studio.ledger, studio.workspace, queue)
    return get_review_queue(studio.ledger, queue.id)


def form_of(page: str) -> dict[str, str]:
    """What the form of a request sends by itself."""
    return {name: re.findall(f'name="{name}" value="([^"]*)"', page)[0] for name in ("item", "submission")}


def test_requests_with_pictures_and_sounds_are_reviewed(browser: Browser, project: Path, studio: Studio) -> None:
    """What the traffic keeps is shown; of what it does not keep, a line says so, and review goes on."""
    kept = [keep_media(content) for content in (picture(), sound())]
    gone = keep_media(picture(seed=7))
    said = Message(
        role="user",
        content=f"{MEDIA_MARK} and {MEDIA_MARK} and {MEDIA_MARK} of ada@example.org",
        media=(kept[0].media, kept[1].media, gone.media),
    )
    folder = keep(project, trace(1, messages=(said,)))
    for entry in kept:
        write_trace_media(folder, entry.media, entry.content)
    queue = begin(browser, studio)
    page = browser.get(f"/review/{queue.id}").text
    assert "ada@example.org" not in page
    image, _whole, audio = re.findall(r'(?:src|data-whole)="(/label/[^"]+)"', page)
    assert browser.get(image).content == kept[0].content
    assert browser.get(audio, headers={"range": "bytes=0-3"}).content == b"RIFF"
    assert page.count("Here stands a picture that cannot be shown") == 2, "one in its place, one if the other fails"
    base = image.rpartition("/")[0]
    assert browser.get(f"{base}/{gone.media.digest}").status_code == 404
    sent = browser.submit(f"/review/{queue.id}/answer", **form_of(page), verdict="right")
    assert sent.status_code == 200


def test_a_queue_is_made_filled_and_closed(browser: Browser, project: Path, studio: Studio) -> None:
    assert "No queue yet" in browser.get("/review").text
    queue = begin(browser, studio, thumbs_down="1", chance="0,5", where="latency_s > 5")
    assert [(rule.name, rule.share) for rule in queue.settings.rules] == [
        ("condition", 1), ("thumbs down", 1), ("chance", 0.005),
    ]  # fmt: skip
    page = browser.get("/review").text
    assert "Daily" in page
    assert "latency_s &gt; 5" in page
    assert "No request was drawn yet" in browser.get(f"/review/{queue.id}").text
    browser.submit(f"/review/{queue.id}/close")
    assert "This queue is closed" in browser.get(f"/review/{queue.id}").text
    browser.submit(f"/review/{queue.id}/close", again="1")
    assert get_review_queue(studio.ledger, queue.id).annotation.state == "open"


@pytest.mark.parametrize(
    "wrong",
    [{"chance": "0"}, {"chance": "x"}, {"chance": "200"}, {"where": "ratng < 0"}, {"days": "-1"}, {"project": "../x"},
     {"name": " "}, {"only": "model ="}],
)  # fmt: skip
def test_a_queue_that_draws_nothing_is_refused(
    browser: Browser, project: Path, studio: Studio, wrong: dict[str, str]
) -> None:
    told = {"name": "Daily", "project": "tickets", "chance": "1", "days": "7", **wrong}
    answer = browser.submit("/review", **told)
    assert answer.status_code in (400, 404)
    assert 'role="alert"' in answer.text
    assert list_review_queues(studio.ledger) == []


def test_a_class_that_is_new_to_the_data_is_said_before_the_next_round_runs(
    browser: Browser, project: Path, studio: Studio
) -> None:
    keep(project, trace(1))
    queue = begin(browser, studio)
    told = "new to the data, right or misspelt: 'REFUNDS' (1 row; known: refund)."
    (project / "tickets-2.yaml").write_text(f"# After recipe.yaml:tune\n# {told}\n{RECIPE}")
    (project / "tickets-2.jsonl").write_text('{"trace": "t1", "text": "money", "label": "REFUNDS"}\n')
    page = unescape(browser.get(f"/review/{queue.id}/rounds/tickets-2.yaml").text)
    assert f'role="alert">{told}<' in page


def test_from_a_request_to_figures(browser: Browser, project: Path, studio: Studio) -> None:
    said = Feedback(trace="chatcmpl-3", timestamp=BEGIN, rating=-1, comment="rude!", by="u3")
    folder = keep(project, *(trace(at) for at in range(12)), said)
    queue = begin(browser, studio)
    seen = set()
    for number in range(12):
        page = browser.get(f"/review/{queue.id}").text
        assert "It is on its way to you." in page
        assert "1.25 s" in page
        assert ("rude!" in page) == ("parcel number 3<" in page)
        form = form_of(page)
        seen.add(form["item"])
        if number == 0:
            form |= {"verdict": "wrong", "correction": "It is at the depot.", "new_type": "out of date"}
            form |= {"marks": "on its way", "comment": "See the tracking."}
        else:
            form |= {"verdict": "right", "correction": "It is on its way to you."}
        assert browser.submit(f"/review/{queue.id}/answer", **form).status_code == 200
        assert browser.submit(f"/review/{queue.id}/answer", **form).status_code == 200, "sent twice"
        if number == 0:
            assert "out of date" in browser.get(f"/review/{queue.id}").text
    assert len(seen) == 12
    written = [one for one in read_feedback(folder) if one.role == "reviewer"]
    assert len(written) == 12
    (wrong,) = [one for one in written if one.rating == -1]
    assert (wrong.correction, wrong.types, wrong.comment) == (
        "It is at the depot.",
        ("out of date",),
        "See the tracking.",
    )
    assert wrong.spans[0].type == "out of date"
    assert "Nothing waits for you" in browser.get(f"/review/{queue.id}").text
    page = browser.get(f"/review/{queue.id}/results").text
    assert "91.7 %" in page
    assert "out of date" in page
    assert "No alert reads these verdicts" in page
    assert "channel" in page
    listed = browser.get(f"/review/{queue.id}/items").text
    assert listed.count("badge done") == 11
    (item,) = [one for one in iterate_reviewed_items(studio.ledger, queue) if one.outcome and one.outcome.types]
    own = browser.get(f"/review/{queue.id}/items/{item.id}").text
    assert "It is at the depot." in own
    assert 'value="wrong" required checked' in own


def test_a_second_person_sees_the_first_opinion_afterwards(browser: Browser, project: Path, studio: Studio) -> None:
    keep(project, trace(1))
    queue = begin(browser, studio)
    (item,) = iterate_reviewed_items(studio.ledger, queue)
    from luthier.annotation.queue import AnswerSubmission
    from luthier.commands.review.verdicts import ask_second_opinion, submit_verdict

    me = getpass.getuser()  # without accounts, whoever started the studio
    AnnotationQueue(studio.ledger, queue.id).next_item("rita")
    first = AnswerSubmission(id="rita-first", item=item.id, values={"verdict": "wrong"}, comment="secret words")
    submit_verdict(studio.ledger, studio.workspace, queue.id, first, by="rita")
    ask_second_opinion(studio.ledger, queue, item.id, me)
    page = browser.get(f"/review/{queue.id}").text
    assert "asked for a second opinion" in page
    assert "secret words" not in page
    assert "secret words" not in browser.get(f"/review/{queue.id}/items/{item.id}").text
    browser.submit(f"/review/{queue.id}/answer", **form_of(page), verdict="right")
    page = browser.get(f"/review/{queue.id}/items/{item.id}").text
    assert "secret words" in page
    assert "People differ" in page
    browser.submit(f"/review/{queue.id}/items/{item.id}/decide", by=me)
    assert "counts" in browser.get(f"/review/{queue.id}/items/{item.id}").text
    assert browser.submit(f"/review/{queue.id}/items/{item.id}/decide", by="nobody").status_code == 404
    assert browser.submit(f"/review/{queue.id}/items/{item.id}/second", person=" ").status_code == 400


def test_a_correction_is_shown_as_what_changes(browser: Browser, project: Path, studio: Studio) -> None:
    keep(project, trace(1))
    queue = begin(browser, studio)
    (item,) = iterate_reviewed_items(studio.ledger, queue)
    page = browser.submit(
        f"/review/{queue.id}/diff", item=str(item.id), correction="It is <b>lost</b> on its way."
    ).text
    assert "<ins>" in page
    assert "<del>" in page
    assert "<b>lost" not in page
    assert (
        browser.submit(f"/review/{queue.id}/diff", item=str(item.id), correction=item.shown.answers[0]).text.strip()
        == ""
    )
    assert compare_texts("a b", "a c") == [("same", "a "), ("del", "b"), ("ins", "c")]
    assert len(compare_texts("x y\n" * 20_000, "x z\n" * 20_000)) <= 2


def test_rows_that_are_alike_are_found() -> None:
    texts = ["where is my parcel", "give me the money back", "my parcel is late, where is it", "Wo ist mein Paket?", ""]
    index = build_text_index(texts)
    assert [row for row, _ in index.find("where is the parcel of mine", 2)] == [0, 2]
    assert index.find("where is my parcel", 1)[0] == (0, pytest.approx(1, abs=1e-5))
    assert index.find("zzz", 3) == []
    assert build_text_index(["包裹在哪里", "退款"]).find("我的包裹", 1)[0][0] == 0


@pytest.mark.matrix("</textarea>*", "{{*")
@pytest.mark.parametrize("words", [*BREAKS, "-->", "\u2028"])
def test_requests_answers_and_opinions_are_shown_and_never_run(
    browser: Browser, project: Path, studio: Studio, words: str
) -> None:
    hostile = trace(
        1, id=f"id{words}"[:100], messages=(Message(role="user", content=words),), model=words, release=words,
        answer=Message(role="assistant", content=words), meta={words: words}, scores={words: 0.6, "b": 0.4},
    )  # fmt: skip
    said = Feedback(trace=hostile.id, timestamp=BEGIN, rating=-1, comment=words, label=words)
    keep(project, hostile, said, *(trace(at) for at in range(2, 4)))
    queue = begin(browser, studio, name=f"n{words}")
    pages = []
    for _ in range(3):
        page = browser.get(f"/review/{queue.id}").text
        pages.append(page)
        form = form_of(page)
        answer = browser.submit(
            f"/review/{queue.id}/answer", **form, verdict="wrong", label=words, correction=words, new_type=words,
            comment=words,
        )  # fmt: skip
        pages.append(answer.text)
        pages.append(browser.submit(f"/review/{queue.id}/diff", item=form["item"], correction=words).text)
        browser.submit(f"/review/{queue.id}/items/{form['item']}/second", person=words)
        for at in (f"items/{form['item']}", f"items/{form['item']}/alike", "items", "results"):
            pages.append(browser.get(f"/review/{queue.id}/{at}").text)
    pages += [browser.get("/review").text, browser.get(f"/review/{words}").text]
    for page in pages:
        _is_plain(page)
    assert SCRIPT not in "".join(pages)


def test_no_other_queue_item_or_recipe_is_reached(browser: Browser, project: Path, studio: Studio) -> None:
    keep(project, trace(1))
    one = begin(browser, studio)
    (item,) = iterate_reviewed_items(studio.ledger, one)
    keep(project, trace(2))
    other = begin(browser, studio, name="Other")
    assert browser.get(f"/review/{other.id}/items/{item.id}").status_code == 404
    for name in ("recipe.yaml", "..%2frecipe.yaml", "%2e%2e", "x.yaml"):
        assert browser.get(f"/review/{one.id}/rounds/{name}").status_code == 404
        assert browser.submit(f"/review/{one.id}/rounds/{name}/run").status_code in (404, 405)
    assert (
        browser.submit(f"/review/{one.id}/answer", item=str(item.id), submission="x" * 20, verdict="right").status_code
        == 404
    )
    assert browser.submit(f"/review/{one.id}/answer", item="1e9", submission="x" * 20).status_code == 400
    assert studio.queue.all() == []


def test_commands_do_the_same(
    browser: Browser, project: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(project, *(trace(at) for at in range(30)))
    monkeypatch.chdir(project.parent)
    assert run_command(["review", "create", "Cron", "--chance", "0.5"]) == 0
    assert "of 30 requests of tickets" in capsys.readouterr().out
    assert run_command(["review", "fill"]) == 0
    assert "0 new" in capsys.readouterr().out
    assert run_command(["review", "status"]) == 0
    assert "Cron" in capsys.readouterr().out
    assert run_command(["review", "results", "Cron", "--json"]) == 0
    assert '"accuracy": null' in capsys.readouterr().out
    queue = list_review_queues(studio.ledger)[0]
    for _ in range(6):
        page = browser.get(f"/review/{queue.id}").text
        browser.submit(f"/review/{queue.id}/answer", **form_of(page), verdict="right")
    assert run_command(["review", "results"]) == 0
    assert "right: 100.0 %" in capsys.readouterr().out
    assert run_command(["review", "create", "Nothing"]) == 2
    assert "no requests are meant to be drawn" in capsys.readouterr().err
    assert run_command(["review", "results", "nope"]) == 2
    assert run_command(["review", "close", queue.id]) == 0
    assert run_command(["review", "next", queue.id]) == 2, "no recipe here makes the model that answered"
