"""The pages Models and Watch: what is made, released, served and asked, and what an attacker may put there."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from luthier.chat.messages import Message
from luthier.commands.projects.command_process import CommandProcess
from luthier.commands.projects.models import list_project_models
from luthier.commands.projects.watch import RequestFilter, find_monitor_steps
from luthier.commands.traces import record_feedback
from luthier.core.errors import InputError
from luthier.recipe.workspace import Workspace
from luthier.studio.charts import ChartMark, build_chart
from luthier.studio.state import Studio
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Feedback, Trace
from luthier.traces.releases import history
from luthier.traces.retention import traffic_folder
from studio.conftest import RECIPE, Browser, copy_project, run_project
from studio.test_attacks import BREAKS, _is_plain

WATCHED = (
    RECIPE
    + """\
  gate: {kind: gate, evaluation: report, rules: ["accuracy >= 0.2"]}
  monitor:
    kind: monitor
    data: data
    evaluation: report
    interval: 60
    signals: [latency, error_rate, {kind: metric, metric: accuracy}]
    alerts: [{expr: "error_rate > 20% over 1h", name: failing, clear: "error_rate < 10% over 1h"}]
"""
)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run, made once."""
    return run_project(tmp_path_factory.mktemp("watched") / "tickets", WATCHED)


@pytest.fixture
def made(_made: Path, workspace: Path) -> Path:
    """The project in this test's workspace, with all that it made."""
    return copy_project(_made, workspace)


def _models(folder: Path) -> list[Any]:
    return list_project_models(Workspace.open(folder.parent), folder / "recipe.yaml")


def _wait(holds: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_a_model_has_a_card_and_an_earlier_one_stays(browser: Browser, made: Path) -> None:
    model, *others = _models(made)
    assert not others
    assert (model.step, model.word, model.is_current) == ("tune", "tickets/recipe.yaml:tune", True)
    assert (model.technique, model.verdict) == ("plain", "PASS")
    assert model.scores[0].metric == "accuracy"
    assert model.scores[0].own.low <= model.scores[0].own.value <= model.scores[0].own.high
    assert model.size > 0
    page = browser.get("/projects/tickets/models").text
    for words in (model.digest, "gate passed", "accuracy", "95 % interval", "Nothing is released yet"):
        assert words in page
    report = browser.get(f"/projects/tickets/models/{model.digest}/report/page")
    assert report.status_code == 200
    assert "sandbox allow-scripts" in report.headers["content-security-policy"]
    (made / "recipe.yaml").write_text(WATCHED.replace("0.2}", "0.3}"))
    (earlier,) = _models(made)
    assert not earlier.is_current
    assert earlier.digest == model.digest
    assert "earlier run" in browser.get("/projects/tickets/models").text
    assert browser.get(f"/projects/tickets/models/{model.digest}/report/page").status_code == 200
    (made / "recipe.yaml").write_text("luthier: 1\nname: tickets\nsteps: [\n")
    assert browser.get("/projects/tickets/models").status_code == 200


def test_a_model_is_released_tried_promoted_and_rolled_back(browser: Browser, made: Path) -> None:
    digest = _models(made)[0].digest
    page = browser.get("/projects/tickets/release", params={"model": digest}).text
    assert "tickets@prod" in page
    assert "luthier release tickets@prod tickets/recipe.yaml:tune" in page
    refused = browser.get("/projects/tickets/release", params={"model": digest, "did": "canary"}).text
    assert "nothing is released as" in refused
    send = {"did": "release", "alias": "tickets@prod", "model": digest, "share": "10"}
    assert "tickets@prod" in browser.submit("/projects/tickets/release", **send).text
    page = browser.get("/projects/tickets/release", params={**send, "did": "canary"}).text
    assert "10%" in page
    assert "--canary 10%" in page
    browser.submit("/projects/tickets/release", **{**send, "did": "canary"})
    browser.submit("/projects/tickets/release", **{**send, "did": "shadow"})
    page = browser.get("/projects/tickets/models").text
    assert "10 % of users" in page
    assert "Promote…" in page
    _write_traffic(made, 8)
    told = browser.get("/projects/tickets/release/comparison?alias=tickets@prod").text
    assert "Canary minus stable" in told
    assert "luthier release compare tickets@prod" in told
    assert "nothing is released as" in browser.get("/projects/tickets/release/comparison?alias=--help").text
    assert "Roll back returns" in browser.get("/projects/tickets/release?did=promote&alias=tickets@prod").text
    browser.submit("/projects/tickets/release", did="promote", alias="tickets@prod")
    assert (
        "canary"
        not in browser.get("/projects/tickets/models").text.partition('id="releases"')[2].partition("<details")[0]
    )
    assert "The model before" in browser.get("/projects/tickets/release?did=rollback&alias=tickets@prod").text
    browser.submit("/projects/tickets/release", did="rollback", alias="tickets@prod")
    with Workspace.open(made).open_ledger() as ledger:
        did = [one.did for one in history(ledger, "tickets@prod")]
    assert did == ["rollback", "promote", "shadow", "canary", "release"]
    for wrong in ({"did": "steal"}, {"did": "promote", "alias": "other@prod"}, {**send, "model": "../../etc/passwd"}):
        assert browser.submit("/projects/tickets/release", **wrong).status_code == 404
    for share in ("0", "100", "-5", "1e9", "x"):
        assert (
            browser.submit("/projects/tickets/release", **{**send, "did": "canary", "share": share}).status_code == 400
        )
    assert browser.submit("/projects/tickets/release", **{**send, "alias": "a b"}).status_code == 400


def test_what_is_released_is_served_and_found_again(browser: Browser, made: Path, studio: Studio) -> None:
    page = browser.get("/projects/tickets/models").text
    assert "Release a model first" in page
    send = {"did": "release", "alias": "tickets@prod", "model": _models(made)[0].digest}
    browser.submit("/projects/tickets/release", **send)
    for port in ("", "80", "99999", "8000; rm", "１２３４"):
        assert browser.submit("/projects/tickets/models/serve", port=port).status_code == 400
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    server = studio.server_of(made / "recipe.yaml")
    try:
        assert "Loading the released models" in browser.submit("/projects/tickets/models/serve", port=str(free)).text
        _wait(lambda: server.state != "starting")
        assert server.state == "ready", server.message
        again = Studio(ledger=studio.ledger, workspace=studio.workspace).server_of(made / "recipe.yaml")
        assert again.state == "ready", "another studio finds it"
        page = browser.get("/projects/tickets/models/server").text
        assert f"http://127.0.0.1:{free}/v1" in page
        assert "model=&#34;tickets@prod&#34;" in page or 'model="tickets@prod"' in page
        body = {"model": "tickets@prod", "messages": [{"role": "user", "content": "where is my parcel"}]}
        answer = httpx.post(f"{again.url}/chat/completions", json=body, timeout=60, trust_env=False).json()
        assert answer["choices"][0]["message"]["content"] == "delivery"
        _wait(lambda: "where is my parcel" in browser.get("/projects/tickets/watch").text, 20)
        assert browser.get(f"/projects/tickets/watch/requests/{answer['id']}").status_code == 200
    finally:
        stopped = browser.submit("/projects/tickets/models/unserve").text
    assert "Serve what is released" in stopped
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{free}/health", timeout=5, trust_env=False)


def _write_traffic(folder: Path, count: int = 90, text: str = "where is my parcel", answer: str = "delivery") -> None:
    now = datetime.now(UTC)
    kept: list[Trace | Feedback] = []
    for number in range(count):
        at = now - timedelta(minutes=2 * (count - number))
        failed = 40 <= number < 60
        trace = Trace(
            id=f"r{number}", timestamp=at, model="tickets@prod", messages=(Message(role="user", content=text),),
            answer=None if failed else Message(role="assistant", content=answer), status=503 if failed else 200,
            error="busy" if failed else "", finish_reason="error" if failed else "stop", latency_s=0.25,
        )  # fmt: skip
        kept.append(trace)
        if number % 3 == 0 and not failed:
            kept.append(Feedback(trace=trace.id, timestamp=at, label="delivery", rating=1.0, by="desk"))
    append_redacted_records(traffic_folder(folder), kept)


def test_traffic_signals_and_alerts_are_shown(browser: Browser, made: Path, studio: Studio) -> None:
    assert "Nothing was asked yet" in browser.get("/projects/tickets/watch").text
    _write_traffic(made)
    page = browser.get("/projects/tickets/watch?period=1d").text
    for words in ("Requests that failed", "As a table", "Earlier requests", "not watching"):
        assert words in page
    assert "Computing the signals" in browser.get("/projects/tickets/watch/signals?period=1d").text
    reader = studio.signals_of(made / "recipe.yaml")
    _wait(lambda: not reader.read("1d").is_computing)
    reading = reader.read("1d")
    assert reading.error is None
    assert reading.result is not None
    assert [one["tells"] for one in reading.result["messages"]] == ["firing", "resolved"]
    page = browser.get("/projects/tickets/watch/signals?period=1d").text
    for words in ("error_rate", "failing", "quiet", "began", "error_rate &lt; 10% over 1h", "luthier monitor history"):
        assert words in page
    assert "latency.p95" in page
    assert find_monitor_steps(made / "recipe.yaml") == ["monitor"]
    known = browser.get("/projects/tickets/watch/signals", params={"period": "1d", "known": reader.read("1d").version})
    assert known.status_code == 204


def test_a_monitor_is_added_by_a_button(browser: Browser, project: Path) -> None:
    _write_traffic(project, 2)
    assert "Add one to the recipe" in browser.get("/projects/tickets/watch").text
    page = browser.submit("/projects/tickets/watch/add")
    assert page.url.path == "/projects/tickets/recipe"
    assert "This recipe can be run." in page.text
    assert "# two columns" in (project / "recipe.yaml").read_text(), "comments stay"
    assert find_monitor_steps(project / "recipe.yaml") == ["monitor"]
    assert browser.submit("/projects/tickets/watch/add").status_code == 400


def test_requests_are_searched_and_paged(browser: Browser, made: Path) -> None:
    _write_traffic(made)
    page = browser.get("/projects/tickets/watch", params={"where": "status >= 400"}).text
    assert page.count("503 busy") == 20
    assert "did you mean" in browser.get("/projects/tickets/watch", params={"where": "statsu >= 400"}).text
    assert "No request is like that" in browser.get("/projects/tickets/watch", params={"search": 'a "zebra"'}).text
    page = browser.get("/projects/tickets/watch").text
    before = page.partition("before=")[2].partition("#")[0]
    second = browser.get(f"/projects/tickets/watch?before={before}").text
    assert "Earlier requests" not in second
    assert second.count("/watch/requests/") == 40
    assert "not as expected" in browser.get("/projects/tickets/watch?before=yesterday").text
    one = browser.get("/projects/tickets/watch/requests/r0").text
    for words in ("where is my parcel", "delivery", "desk", "luthier traces show r0"):
        assert words in one
    assert browser.get("/projects/tickets/watch/requests/..%2F..%2Fetc").status_code in (400, 404)


@pytest.mark.matrix('"><img*', "{{*")
@pytest.mark.parametrize("words", BREAKS)
def test_what_was_asked_and_answered_is_shown_and_never_run(browser: Browser, made: Path, words: str) -> None:
    _write_traffic(made, 2, words, words)
    spoken = Feedback(trace="r1", timestamp=datetime.now(UTC), comment=words, correction=words, by=words)
    record_feedback(Workspace.open(made), None, spoken)
    pages = [browser.get("/projects/tickets/watch"), browser.get("/projects/tickets/watch/requests/r1")]
    for name in ("search", "where", "before", "period"):
        pages.append(browser.get("/projects/tickets/watch", params={name: words}))
    digest = _models(made)[0].digest
    for name in ("alias", "share", "did", "model"):
        pages.append(browser.get("/projects/tickets/release", params={"model": digest, name: words}))
        pages.append(browser.submit("/projects/tickets/release", **{"model": digest, "did": "canary", name: words}))
    pages.append(browser.submit("/projects/tickets/models/serve", port=words))
    for page in pages:
        _is_plain(page.text)


def test_a_condition_and_a_search_are_one() -> None:
    assert RequestFilter().condition == ""
    assert RequestFilter(search="a", where="rating < 0").condition == '(rating < 0) and text contains "a"'
    assert RequestFilter(search="""say "it's" """).condition == """text contains 'say "it s" '"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[CommandProcess]:
    found = CommandProcess(tmp_path / "kept")
    yield found
    found.stop()


def test_a_command_that_fails_says_why(process: CommandProcess, tmp_path: Path) -> None:
    states = [process.state]
    process.start(Workspace.open(tmp_path), ["show", "nothing.yaml"])
    _wait(lambda: not process.is_running)
    states.append(process.state)
    assert "nothing.yaml" in process.message
    process.stop()
    assert [*states, process.state] == ["off", "failed", "off"]


def test_a_chart_has_axes_a_band_and_a_table() -> None:
    points = [[float(at), at / 10, at / 10 - 0.1, at / 10 + 0.1] for at in range(200)]
    chart = build_chart("loss", points, unit="nats", marks=[ChartMark("limit", 12.0, is_limit=True)])
    assert chart is not None
    assert len(chart.ticks_y) >= 3
    assert len(chart.ticks_x) >= 3
    assert len(chart.rows) == len(chart.dots) == 60
    assert chart.band
    assert not chart.has_dots
    assert chart.dots[0].hint == "0: 0 nats (−0.1 to 0.1)"
    assert all(0 <= dot.x <= chart.width and 0 <= dot.y <= chart.height for dot in chart.dots)
    assert build_chart("loss", []) is None
    assert build_chart("loss", [[1.0, float("nan")]]) is None
    single = build_chart("loss", [[5.0, 0.0]], axis="time")
    assert single is not None
    assert json.dumps(single.rows)


def test_a_port_is_a_port(studio: Studio, project: Path) -> None:
    with pytest.raises(InputError, match="expected a port"):
        studio.server_of(project / "recipe.yaml").start("0x50")
