"""`luthier serve` with the real SmolLM2 of this user's cache; the command's other tests have a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from commanded import command
from luthier.core.artifact import Artifact
from tests.targets import target


@pytest.mark.slow
@pytest.mark.model
def test_the_real_model_answers_as_it_was_evaluated(
    smollm2: Artifact, tmp_path: Path, chat_of: Callable[[str], str]
) -> None:
    with command(tmp_path, "smollm2-135m-instruct", "--no-traces") as running, ThreadPoolExecutor(4) as pool:
        client = running.client()

        def ask(words: str) -> str | None:
            turns: Any = [{"role": "user", "content": words}]
            found = client.chat.completions.create(model="smollm2-135m-instruct", messages=turns, max_tokens=8)
            return found.choices[0].message.content

        words = ["What is the capital of France?", "Say hello in French."]
        assert list(pool.map(ask, words)) == [chat_of(one) for one in words]
        assert running.stop()[0] == 0


@pytest.fixture
def chat_of(smollm2: Artifact) -> Callable[[str], str]:
    """What `luthier chat` says."""
    from luthier.commands.chat import open_chat

    return lambda words: open_chat(target("smollm2-135m-instruct"), system=None, max_tokens=8, temperature=0.0).ask(
        words
    )
