"""Rendering pages: the templates, what they may call, and how figures are written."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from luthier.core.errors import LuthierError, UnknownName
from luthier.core.render import format_elapsed_time
from luthier.eval.report.palette import DARK, LIGHT, render_css_variables
from luthier.studio.translation import choose_language, current_language, install, use_language

if TYPE_CHECKING:
    from jinja2 import Environment

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_STATIC = ("studio.css", "studio.js", "scheme.js", "htmx.min.js", "icon.svg", "widgets.js", "label.js")


def render(request: Request, template: str, /, status: int = 200, **facts: Any) -> HTMLResponse:
    """One page, or the piece of one that htmx asked for."""
    use_language(choose_language(request))
    found = _environment().get_template(template)
    return HTMLResponse(found.render(token=request.state.token, **facts), status)


def render_error(request: Request, error: LuthierError, status: int | None = None) -> HTMLResponse:
    """What is wrong, as a page; as a piece of one where htmx asked."""
    code = status or (404 if isinstance(error, UnknownName) else 400)
    template = "error_piece.html.jinja" if "hx-request" in request.headers else "error.html.jinja"
    return render(request, template, status=code, error=error)


def render_closed() -> Response:
    """What a browser without a session sees."""
    return HTMLResponse(_environment().get_template("closed.html.jinja").render(token=""), 401)


def static_file(name: str) -> Response:
    """One of the studio's own files; 404 for any other name."""
    if name not in _STATIC:
        return Response("There is no such file.", 404, media_type="text/plain")
    kind = _TYPES[name[name.rindex(".") :]]
    return Response(_static(name), media_type=kind, headers={"cache-control": "max-age=31536000, immutable"})


@cache
def _static(name: str) -> bytes:
    content = (files("luthier.studio") / "static" / name).read_bytes()
    return _schemes().encode() + content if name == "studio.css" else content


def _schemes() -> str:
    """The colours of the report, for the light and for the dark."""
    light, dark = render_css_variables(LIGHT), render_css_variables(DARK)
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-scheme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-scheme=dark]{{color-scheme:dark;{dark}}}\n"
    )


def _address(name: str) -> str:
    """The address of one of the studio's own files, which changes with its content."""
    return f"/static/{name}?v={hashlib.sha256(_static(name)).hexdigest()[:12]}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("luthier.studio"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    install(environment)
    environment.globals.update(language=current_language, static=_address, command=_command, curve=_curve)
    environment.filters.update(
        ago=_ago, bytes=_bytes, duration=_duration, part=lambda text: quote(str(text), safe=""), clock=_clock,
        thousands=lambda value: f"{value:,}",
    )  # fmt: skip
    return environment


def _command(*words: str) -> str:
    """A command as somebody types it."""
    return shlex.join(["luthier", *words])


def _ago(moment: datetime | None) -> str:
    """How long ago something was, in words."""
    if moment is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for size, one in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {one}{'s' if count > 1 else ''} ago"
    return "just now"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _bytes(value: float | None) -> str:
    if value is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else format_elapsed_time(seconds)


_WIDTH, _HEIGHT = 320.0, 90.0


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """The points of a curve as an SVG polyline has them, in a box of 320 by 90."""
    xs, ys = [x for x, _ in points], [y for _, y in points if y == y]  # noqa: PLR0124  # NaN is not itself
    left, right, low, high = min(xs), max(xs), min(ys, default=0.0), max(ys, default=1.0)
    across, up = (right - left) or 1.0, (high - low) or 1.0
    return " ".join(
        f"{(x - left) / across * _WIDTH:.1f},{_HEIGHT - (y - low) / up * _HEIGHT:.1f}"
        for x, y in points
        if y == y  # noqa: PLR0124
    )
