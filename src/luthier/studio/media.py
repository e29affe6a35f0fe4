"""Answers with a picture or a sound: by its own type, in parts where a browser asks for some, and never run."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from luthier.commands.labeling.item_media import MediaFile

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_HEADERS = {
    "content-security-policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "cache-control": "private, max-age=600",
    "vary": "cookie",
    "accept-ranges": "bytes",
}
"""Opened by itself, a file may load and run nothing; only the session that got it reads it from the browser's cache."""


def media_response(request: Request, file: MediaFile) -> Response:
    """The file, or the range of bytes that was asked for (206); 416 for one that it does not have."""
    size = len(file.content)
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if match is None or match.groups() == ("", ""):  # several ranges may be answered by the whole
        return Response(file.content, media_type=file.type, headers=_HEADERS)
    first, last = match.groups()
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if begin > end:
        return Response(status_code=416, headers={**_HEADERS, "content-range": f"bytes */{size}"})
    headers = {**_HEADERS, "content-range": f"bytes {begin}-{end}/{size}"}
    return Response(file.content[begin : end + 1], 206, headers, media_type=file.type)
