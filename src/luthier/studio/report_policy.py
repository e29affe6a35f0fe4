"""The report in a frame: a page that was written apart, held by its own policy and a sandbox."""

from __future__ import annotations

import re

from starlette.responses import HTMLResponse, Response

_HEAD = 4096
_META = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([A-Za-z0-9 +/=:;&#\'-]{1,600})">')


def report_headers(page: str) -> Response:
    """The page with the policy that it names itself (its own style and script, by their hashes; nothing else), in a
    sandbox without this address's cookies; a page that names none runs nothing."""
    match = _META.search(page[:_HEAD])
    own = match[1].replace("&#39;", "'") if match else "default-src 'none'"
    policy = f"{own}; sandbox allow-scripts; frame-ancestors 'self'"
    return HTMLResponse(page, headers={"content-security-policy": policy, "x-frame-options": "SAMEORIGIN"})
