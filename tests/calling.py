"""Everything that an OpenAPI description allows, put to a server that really listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings


def called(
    url: str,
    examples: int,
    headers: Mapping[str, str] = MappingProxyType({}),
    chosen: Callable[[str], bool] = lambda _: True,
) -> tuple[set[str], list[tuple[Any, ...]]]:
    """The paths that were called, and each call at which the server failed (5xx), of paths that are chosen."""
    schema = schemathesis.openapi.from_url(url, headers=dict(headers))
    seen: set[str] = set()
    failed: list[tuple[Any, ...]] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if not chosen(operation.path):
            continue

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            response = case.call(timeout=30, headers=dict(headers))
            seen.add(case.path)
            if response.status_code >= 500:
                failed.append((case.method, case.path, case.body, response.text))

        check()
    return seen, failed
