"""A function of the user's own that answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from luthier.core.errors import ModelError, RecipeError, SourceLocation
from luthier.core.files import PathText, resolve_path
from luthier.core.hashing import file_digest
from luthier.core.system.sandbox import run_sandbox_programs
from luthier.tune.environment import Environment, EnvironmentConversation

_CALL = """
import json as _json
_turns, _row = _json.loads({turns!r})
answer = {function}(_turns, _row)
if answer is not None and not isinstance(answer, str):
    raise TypeError("expected a text or None, got " + type(answer).__name__)
answer = _json.dumps(answer)
"""


class PythonFunctionEnvironment(Environment):
    """Get each reply from a function in a Python file: `def answer(turns, row)` gives a text, or None to end the
    conversation.

    `turns` is the whole conversation as the API has it (`[{"role", "content"}, …]`), `row` the columns of the data that
    were not mapped, with the data's own answer as `reference`. It runs locked in, like every program that nobody has
    read (see `luthier.core.system.sandbox`): standard library only, nothing kept between two calls. A function that
    raises ends training, with the row: return a text for what the model did wrong. Linux on x86_64 only.
    """

    kind: Literal["python"] = "python"

    path: PathText
    """The Python file."""
    function: str = Field(default="answer", pattern=r"^[A-Za-z_]\w*$")
    """The function's name."""
    wall_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds that a call may take."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The file's contents."""
        return file_digest(self._file(recipe_dir))

    def answer(self, talks: Sequence[EnvironmentConversation], recipe_dir: Path) -> list[str | None]:
        """Return the function's reply to each conversation."""
        source = self._file(recipe_dir).read_text(encoding="utf-8")
        ran = run_sandbox_programs(
            [source + _CALL.format(turns=_serialize_conversation(talk), function=self.function) for talk in talks],
            self.wall_s,
        )
        replies: list[str | None] = []
        for talk, sandbox_result in zip(talks, ran, strict=True):
            if not sandbox_result.passed:
                origin = talk.example.origin
                what = f"{self.function} failed on example {talk.example.id}: {sandbox_result.why}"
                where = SourceLocation(file=origin.file, line=origin.line, field="rollout.environment")
                raise ModelError(what, where=where, hint=f"mend {self.path}; it was answering {talk.completion[:60]!r}")
            replies.append(json.loads(sandbox_result.answer))
        return replies

    def _file(self, recipe_dir: Path) -> Path:
        path = resolve_path(self.path, recipe_dir)
        if not path.is_file():
            raise RecipeError(f"there is no file {self.path}", where=SourceLocation(field="rollout.environment.path"))
        return path


def _serialize_conversation(talk: EnvironmentConversation) -> str:
    from luthier.chat.messages import answer_of

    turns = [{"role": turn.role, "content": turn.content} for turn in talk.whole]
    row: dict[str, Any] = {**talk.example.meta, "reference": answer_of(talk.example)}
    return json.dumps([turns, row], default=str)
