"""Python's words for JSON that is none, with a place behind them."""

from __future__ import annotations

import json

import pytest

from luthier.core.errors import describe_json_error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": "b', "Unterminated string at column 7"),
        ('{"a": "b\n"}', "Invalid control character at column 9"),
        ("{a}", "Expecting property name enclosed in double quotes at column 2"),
    ],
)
def test_a_place_is_told_once(text: str, told: str) -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(text)
    assert describe_json_error(caught.value, column=True) == f"is not JSON: {told}"
    assert describe_json_error(caught.value) == f"is not JSON: {told.partition(' at column')[0]}"
