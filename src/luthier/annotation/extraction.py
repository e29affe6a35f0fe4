"""What extraction is trained to answer: the texts of labelled places."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def spans_to_answer(spans: Iterable[Mapping[str, Any]]) -> str:
    """The texts of spans by their labels as JSON, each once, in the order of the text; `{}` where there is none.

    Each span has `start`, `end`, `text` and `label`. The metric `json_field_f1` with `ordered: false` measures how much
    of it was found.
    """
    found: dict[str, list[str]] = {}
    for entry in sorted(spans, key=lambda span: (span["start"], span["end"])):
        texts = found.setdefault(str(entry["label"]), [])
        if entry["text"] not in texts:
            texts.append(entry["text"])
    return json.dumps(found, ensure_ascii=False)
