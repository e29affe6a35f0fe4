"""Metrics by name with settings, as on a command line."""

from __future__ import annotations

import pytest

from luthier.core.errors import InputError, UnknownName
from luthier.metrics.files import parse_metrics
from luthier.metrics.kinds.rouge import RougeL


def test_settings_are_read() -> None:
    found = parse_metrics(
        ["rougeL", "rougeL:stem=true,words=unicode", "ece:bins=10", "f1:label=yes please", RougeL(stem=True)][:4]
    )
    assert found["rougeL:stem=true,words=unicode"] == RougeL(stem=True, words="unicode")
    assert found["ece:bins=10"].settings()["bins"] == 10
    assert found["f1:label=yes please"].settings()["label"] == "yes please"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rougeL:stems=true", "no setting 'stems'"),
        ("rougeL:stem=maybe", "stem"),
        ("rougeL:stem", "no setting with its value"),
        ("rougeL:=1", "no setting with its value"),
        ("ece:bins=0", "bins"),
        ("ece:bins=[", "no setting with its value"),
    ],
)
def test_what_is_wrong_is_said(word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_metrics([word])


def test_twice_and_unknown() -> None:
    with pytest.raises(InputError, match="twice"):
        parse_metrics(["ece", "ece"])
    with pytest.raises(UnknownName, match="rougeL"):
        parse_metrics(["rougel"])
