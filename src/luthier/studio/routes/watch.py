"""Watching what a project's models answer: traffic, signals, alerts, and requests one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from luthier.commands.projects.watch import (
    PERIODS,
    RequestFilter,
    RequestPage,
    TrafficPoint,
    add_monitor,
    find_monitor_steps,
    find_traffic,
    list_requests,
    read_traffic_points,
)
from luthier.commands.traces import require_traffic_folder
from luthier.core.errors import LuthierError
from luthier.studio.charts import Chart, ChartMark, build_chart
from luthier.studio.pages import render
from luthier.studio.people import allow
from luthier.studio.state import FormDep, StudioDep
from luthier.studio.translation import gettext as _

router = APIRouter()


@router.get("/projects/{name}/watch", dependencies=[Depends(allow("view"))])
def show(
    request: Request, studio: StudioDep, name: str, chosen: Annotated[RequestFilter, Depends()], period: str = "7d"
) -> Response:
    """How it goes: traffic, signals, alerts, requests."""
    file = studio.find_recipe(name)
    period = period if period in PERIODS else "7d"
    folder = find_traffic(studio.workspace, file)
    request_page, error = RequestPage((), ""), None
    if folder is not None:
        try:
            request_page = list_requests(folder, chosen)
        except LuthierError as problem:
            error = problem
    return render(
        request, "watch.html.jinja", name=name, file=studio.workspace.shorten(file), period=period, periods=PERIODS,
        has_traffic=folder is not None, charts=_traffic(read_traffic_points(folder, period)) if folder else [],
        monitors=find_monitor_steps(file), chosen=chosen, found=request_page, error=error,
        server=studio.server_of(file), runner=studio.monitor_of(file),
    )  # fmt: skip


def _traffic(points: Sequence[TrafficPoint]) -> list[Chart | None]:
    """Traffic as curves."""
    time: dict[str, Any] = {"axis": "time", "across": _("From")}
    shares = [[point.at, *(100 * part for part in point.error_share)] for point in points]
    half = [[point.at, point.latency_p50] for point in points if point.latency_p50 is not None]
    most = [[point.at, point.latency_p95] for point in points if point.latency_p95 is not None]
    return [
        build_chart(_("Requests"), [[point.at, point.requests] for point in points], **time),
        build_chart(_("Requests that failed"), shares, unit="%", **time),
        build_chart(_("Latency of half of them"), half, unit="s", **time),
        build_chart(_("Latency of 95 % of them"), most, unit="s", **time),
    ]


@router.get("/projects/{name}/watch/signals", dependencies=[Depends(allow("view"))])
def signals(request: Request, studio: StudioDep, name: str, period: str = "7d", known: str = "") -> Response:
    """The signals and alerts, without the page around them; they are computed anew when they are old. Nothing where the
    page has them already."""
    file = studio.find_recipe(name)
    period = period if period in PERIODS else "7d"
    reader = studio.signals_of(file)
    reading = reader.read(period)
    if known == reading.version:
        return Response(status_code=204)
    charts = [] if reading.result is None else [_signal(entry) for entry in reading.result["numbers"]]
    return render(
        request, "watch_signals.html.jinja", name=name, period=period, reading=reading, words=reader.words(period),
        charts=[chart for chart in charts if chart],
    )  # fmt: skip


def _signal(number: dict[str, Any]) -> Chart | None:
    """One number over time, with its limits and what the report measured."""
    marks = [ChartMark(entry["alert"], entry["limit"], is_limit=True) for entry in number["limits"]]
    if number["report"] is not None:
        marks.append(ChartMark(_("report"), number["report"]))
    title = f"{number['number']} {number['window']}"
    return build_chart(title, number["points"], axis="time", across=_("At"), marks=marks)


@router.get("/projects/{name}/watch/requests/{id}", dependencies=[Depends(allow("view"))])
def request_page(request: Request, studio: StudioDep, name: str, id: str) -> Response:
    """One request: what was asked, what came, how long it took, what people said of it."""
    from luthier.traces.store import read_trace_by_id

    file = studio.find_recipe(name)
    folder = require_traffic_folder(studio.workspace.with_folder(file.parent), file)
    with_feedback = read_trace_by_id(folder, id)
    return render(
        request, "watch_request.html.jinja", name=name, file=studio.workspace.shorten(file), trace=with_feedback.trace,
        feedback=with_feedback.feedback,
    )  # fmt: skip


@router.post("/projects/{name}/watch/add", dependencies=[Depends(allow("edit"))])
def add_monitor_step(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Add a step `monitor` to the recipe."""
    add_monitor(studio.workspace, studio.find_recipe(name))
    return RedirectResponse(f"/projects/{name}/recipe?saved=true", 303)


@router.post("/projects/{name}/watch/start", dependencies=[Depends(allow("edit"))])
def start_alerts(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Start sending alerts to their channels."""
    studio.monitor_of(studio.find_recipe(name)).start()
    return RedirectResponse(f"/projects/{name}/watch", 303)


@router.post("/projects/{name}/watch/stop", dependencies=[Depends(allow("edit"))])
def stop_alerts(studio: StudioDep, form: FormDep, name: str) -> Response:
    """Stop sending alerts."""
    studio.monitor_of(studio.find_recipe(name)).stop()
    return RedirectResponse(f"/projects/{name}/watch", 303)
