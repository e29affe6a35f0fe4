"""Render the studio's pages, and the headers of a report in a frame."""

from __future__ import annotations

import hashlib
import re
import shlex
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from luthier.annotation.media import split_content
from luthier.chat.messages import MEDIA_MARK
from luthier.core.errors import LuthierError, UnknownName
from luthier.core.render import format_elapsed_time
from luthier.eval.report.palette import DARK, LIGHT, render_css_variables
from luthier.studio.charts import build_chart
from luthier.studio.message_templates import translate_message
from luthier.studio.translation import (
    LANGUAGES,
    current_language,
    gettext,
    install,
    ngettext,
    use_decimal_sign,
    write_figure,
    write_moment,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from luthier.artifacts.explanation import ExplanationRecord

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def render(request: Request, template: str, /, status: int = 200, **facts: Any) -> HTMLResponse:
    """One page, or the piece of one that htmx asked for."""
    found = _environment().get_template(template)
    state = request.state
    who = {"me": getattr(state, "person", None), "accounts": getattr(state, "accounts", False)}
    return HTMLResponse(found.render(token=getattr(state, "token", ""), **who, **facts), status)


def render_error(request: Request, error: LuthierError, status: int | None = None) -> HTMLResponse:
    """What is wrong, as a page; as a piece of one where htmx asked."""
    code = status or (404 if isinstance(error, UnknownName) else 400)
    template = "error_piece.html.jinja" if "hx-request" in request.headers else "error.html.jinja"
    return render(request, template, status=code, error=error)


def render_closed(scope: Scope, *, accounts: bool) -> Response:
    """What a browser without a session sees: where people log in, the form for it. A piece of a page stays as it is,
    for somebody may have typed into it."""
    request = Request(scope)
    if "hx-request" in request.headers:
        return PlainTextResponse(gettext("Log in first."), 401, headers={"hx-reswap": "none"})
    if not accounts:
        return HTMLResponse(_environment().get_template("closed.html.jinja").render(token=""), 401)
    address = f"/login?next={quote(request.url.path + (f'?{request.url.query}' if request.url.query else ''), safe='')}"
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(address, 303)
    return PlainTextResponse(gettext("Log in first."), 401)


def static_file(name: str) -> Response:
    """One of the studio's own files; 404 for any other name."""
    if name not in _static_names():
        return Response(gettext("There is no such file."), 404, media_type="text/plain")
    kind = _TYPES[name[name.rindex(".") :]]
    return Response(_static(name), media_type=kind, headers={"cache-control": "max-age=31536000, immutable"})


@cache
def _static_names() -> frozenset[str]:
    return frozenset(path.name for path in (files("luthier.studio") / "static").iterdir() if path.name[-3:] != ".md")


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
    environment.globals.update(
        language=current_language,
        languages=LANGUAGES,
        static=_address,
        command=_command,
        chart=build_chart,
        picture_heat=_picture_heat,
    )
    environment.filters.update(
        ago=_ago, bytes=_bytes, duration=_duration, part=lambda text: quote(str(text), safe=""), clock=_clock,
        thousands=format_number, translated=_translated, figure=write_figure, moment=write_moment,
        parts=split_content, plain=lambda text: str(text).replace(MEDIA_MARK, " ").strip(),
    )  # fmt: skip
    return environment


def _command(*words: str) -> str:
    """A command as somebody types it."""
    return shlex.join(["luthier", *words])


def _picture_heat(record: ExplanationRecord, picture: int) -> Markup:
    """A picture in heat, as reports have it; what it says is escaped there."""
    from markupsafe import Markup

    from luthier.artifacts.explanation_picture import render_picture_heat

    return Markup(render_picture_heat(record, picture))  # noqa: S704  # written by our own code, which escapes


def _ago(moment: datetime | None) -> str:
    """How long ago something was, in words."""
    if moment is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    if seconds < 60:
        return gettext("just now")
    minutes, hours, days = (int(seconds // size) for size in (60, 3600, 86400))
    if days:
        return ngettext("%(count)s day ago", "%(count)s days ago", days) % {"count": days}
    if hours:
        return ngettext("%(count)s hour ago", "%(count)s hours ago", hours) % {"count": hours}
    return ngettext("%(count)s minute ago", "%(count)s minutes ago", minutes) % {"count": minutes}


def format_number(value: float) -> str:
    """A number as the page's language writes it."""
    from babel.numbers import format_decimal

    return format_decimal(value, locale=current_language())


def _translated(text: str) -> str:
    """A text that comes from code, such as what a setting does or what a report says, in the page's language."""
    found = gettext(text) if text else ""
    return found if found != text else translate_message(text)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _bytes(value: float | None) -> str:
    if value is None:
        return "?"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{write_figure(value, '.1f')} GB"


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else use_decimal_sign(format_elapsed_time(seconds))


_HEAD = 4096
_META = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([A-Za-z0-9 +/=:;&#\'-]{1,600})">')


def report_headers(page: str) -> Response:
    """The page with the policy that it names itself (its own style and script, by their hashes; nothing else), in a
    sandbox without this address's cookies; a page that names none runs nothing."""
    match = _META.search(page[:_HEAD])
    own = match[1].replace("&#39;", "'") if match else "default-src 'none'"
    policy = f"{own}; sandbox allow-scripts; frame-ancestors 'self'"
    return HTMLResponse(page, headers={"content-security-policy": policy, "x-frame-options": "SAMEORIGIN"})
