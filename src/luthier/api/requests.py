"""Requests to these routes: blocking work beside the event loop, and no unknown query parameter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fastapi import Request

from luthier.core.errors import InputError, SystemResourceError
from luthier.serve.openai.protocol import APIError, ModelUnavailableError

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def run_in_thread(what: Callable[Given, Result], *words: Given.args, **more: Given.kwargs) -> Result:
    """Run a blocking function in a thread; disk and database failures become HTTP 5xx errors (507 when the disk cannot
    be written)."""
    try:
        return await asyncio.to_thread(what, *words, **more)
    except APIError:
        raise
    except SystemResourceError as error:
        raise ModelUnavailableError("the server cannot write", status=507) from error
    except InputError as error:
        raise ModelUnavailableError("the server's records cannot be reached") from error


def check_query_params(request: Request, *known: str, but: str = "") -> None:
    """`APIError` for a query parameter that is not known; names that begin with `but` may be."""
    for name in request.query_params:
        if name not in known and not (but and name.startswith(but)):
            raise APIError(f"this server has no parameter {name[:60]!r}", param=name[:60], code="unsupported_parameter")
