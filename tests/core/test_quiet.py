"""Bars and warnings of transformers are off for a while, and as they were afterwards."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from luthier.core.system.process import hide_transformers_output


def test_bars_and_warnings_are_as_they_were_afterwards() -> None:
    before = _heard()
    with hide_transformers_output():
        assert _heard() == (False, logging.CRITICAL)
    assert _heard() == before


def test_they_come_back_after_an_error_too() -> None:
    before = _heard()
    with pytest.raises(ZeroDivisionError), hide_transformers_output():
        _ = 1 / 0
    assert _heard() == before


def _heard() -> tuple[bool, int]:
    return logging.is_progress_bar_enabled(), logging.get_verbosity()
