"""The teacher of a distillation: another model over the same vocabulary, frozen, asked once for all or at each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, Where
from luthier.tune.objective import Lesson, Objective, Teacher

if TYPE_CHECKING:
    from luthier.models.pack import Row
    from luthier.text.ids import Text

Precision = Literal["float32", "bfloat16", "auto"]
TOGETHER = 64
"""Lessons that the teacher reads together."""
PACK_TOKENS = 4096
"""Tokens that the teacher reads at once."""


def check_teacher(artifact: Artifact, student: Text) -> None:
    """`ModelError` when a model cannot teach: it reads other ids, has a prompt of its own, or names classes."""
    from luthier.models.load import base_folder, name_of, outputs_of
    from luthier.text.ids import Text
    from luthier.text.prompt import Prompt

    name, where = name_of(artifact), Where(field="teacher")
    if outputs_of(artifact):
        raise ModelError(f"{name} names classes and writes no text, so it cannot teach a language model", where=where)
    if Prompt.of(artifact) != Prompt():
        remedy = "name the model that the prompt was chosen for"
        raise ModelError(f"{name} has a prompt in front, which its student would not see", where=where, remedy=remedy)
    if Text.load(base_folder(artifact)).vocabulary_digest != student.vocabulary_digest:
        remedy = "take a teacher and a student of one family, such as two sizes of one model"
        raise ModelError(
            f"{name} and the student cut text into different tokens, so their probabilities cannot be compared",
            where=where, remedy=remedy,
        )  # fmt: skip


def open_teacher(artifact: Artifact, precision: Precision, student: Text) -> Teacher:
    """The frozen model, ready to be asked."""
    from luthier.models.load import load

    model = load(artifact, precision).model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Teacher(model, student.vocabulary)


def taught(lessons: Iterable[Lesson], objective: Objective, teacher: Teacher) -> Iterator[Lesson]:
    """The same lessons with what the teacher finds likely at each learnt token."""
    waiting = iter(lessons)
    while some := list(islice(waiting, TOGETHER)):
        rows = [row for lesson in some for row in lesson.rows]
        told = iter(_told(rows, objective, teacher))
        for lesson in some:
            yield replace(lesson, rows=tuple(islice(told, len(lesson.rows))))


def _told(rows: list[Row], objective: Objective, teacher: Teacher) -> list[Row]:
    from luthier.models.lanes import read_packs

    found: dict[int, Row] = {}
    numbered = [replace(row, key=str(at)) for at, row in enumerate(rows)]
    read = read_packs(teacher.model, numbered, PACK_TOKENS, lambda pack: objective.ready(pack, teacher))
    for pack, asked in read:
        assert asked.choices is not None, "a teacher was asked"
        assert asked.teacher is not None, "and has answered"
        for at, key in enumerate(pack.keys):
            mine = pack.path == at
            choices, said = asked.choices[mine].tolist(), asked.teacher[mine].tolist()
            found[int(key)] = replace(rows[int(key)], choices=choices, teacher=said)
    return [found[at] for at in range(len(rows))]
