"""The plain baseline on pixels and mel bands learns what is shown and played, and stands beside models where it can."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luthier.artifacts.dataset import read_examples
from luthier.chat.media_codec import encode_wav
from luthier.eval.baseline import Baseline
from luthier.eval.defaults import choose_default_baselines
from luthier.eval.task import read_held_out_task
from tests.augmenting import Bench

CLASSES = ("low", "high")


def _picture(number: int) -> bytes:
    """Light at the left or at the right."""
    values = np.random.default_rng(number).integers(0, 120, (10, 14))
    values[:, slice(7) if number % 2 else slice(7, None)] += 100
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _sound(number: int) -> bytes:
    """A low or a high tone of any loudness, with noise."""
    chance = np.random.default_rng(number)
    tone = np.sin(2 * np.pi * (300, 900)[number % 2] * np.arange(1600) / 8000 + chance.uniform(0, 6))
    return encode_wav(chance.uniform(0.05, 0.5) * (tone + 0.1 * chance.normal(size=1600)), 8000)


@pytest.mark.parametrize(("kind", "content"), [("image", _picture), ("audio", _sound)])
def test_it_learns_from_what_is_shown_and_played(kind: str, content: object, tmp_path: Path) -> None:
    assert callable(content)
    rows = [
        {
            "message": "Which one?",
            "category": CLASSES[number % 2],
            "customer": f"C{number}",
            "shown": f"data:{kind}/x;base64,{base64.b64encode(content(number)).decode()}",
        }
        for number in range(60)
    ]
    bench = Bench(tmp_path, rows, source={"media": "read", "media_columns": {"shown": kind}})
    task = read_held_out_task(bench.data, "test", None)
    assert "media" in [baseline.kind for baseline in choose_default_baselines(task)]
    train = read_examples(bench.data, "train")
    replies = Baseline.parse("media").answer(train, task)
    right = sum(reply.prediction == example.label for reply, example in zip(replies, task.examples, strict=True))
    assert right >= len(task.examples) - 1 >= 5
    words = Baseline.parse("tfidf").answer(train, task)
    assert sum(reply.prediction == one.label for reply, one in zip(words, task.examples, strict=True)) < right


def test_it_stands_beside_no_task_of_words(tmp_path: Path) -> None:
    task = read_held_out_task(Bench(tmp_path).data, "test", None)
    assert "media" not in [baseline.kind for baseline in choose_default_baselines(task)]
