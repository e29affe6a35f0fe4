"""The teacher of a distillation: another frozen model over the same vocabulary, read once for all rows or
at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.tune.objective import Objective, Teacher, TrainingExample

if TYPE_CHECKING:
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import TokenRow

Precision = Literal["float32", "bfloat16", "auto"]
TOGETHER = 64
"""Number of examples that the teacher reads at once."""
PACK_TOKENS = 4096
"""Maximum tokens of the teacher's packs."""


def check_teacher(artifact: Artifact, student: ChatTokenizer) -> None:
    """Raise `ModelError` when a model cannot teach: its token ids differ, it has a prompt of its own, or it has a
    classification head.
    """
    from luthier.chat.prompt import PromptPrefix
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.load import find_base_folder, get_model_name, get_output_classes

    name, where = get_model_name(artifact), SourceLocation(field="teacher")
    if get_output_classes(artifact):
        raise ModelError(f"{name} names classes and writes no text, so it cannot teach a language model", where=where)
    if PromptPrefix.of(artifact) != PromptPrefix():
        hint = "name the model that the prompt was chosen for"
        raise ModelError(f"{name} has a prompt in front, which its student would not see", where=where, hint=hint)
    if ChatTokenizer.load(find_base_folder(artifact)).vocabulary_digest != student.vocabulary_digest:
        hint = "take a teacher and a student of one family, such as two sizes of one model"
        raise ModelError(
            f"{name} and the student cut text into different tokens, so their probabilities cannot be compared",
            where=where, hint=hint,
        )  # fmt: skip


def open_teacher(
    artifact: Artifact, precision: Precision, student: ChatTokenizer, read_media: Callable[[str], bytes]
) -> Teacher:
    """Open the frozen teacher; `read_media` returns the bytes of media by digest.

    `ModelError` where it reads images differently from its student: rows would then have other tokens for it.
    """
    from luthier.chat.media import MediaProcessor
    from luthier.models.load import find_base_folder, get_model_name, load_model
    from luthier.models.media.towers import attach_media

    model = load_model(artifact, precision).model
    if student.media is not None:
        own = MediaProcessor.load(find_base_folder(artifact))
        if own is None or own.digest != student.media.digest:
            what = f"{get_model_name(artifact)} and the student do not read pictures by the same processor"
            hint = "take a teacher and a student of one family, with the same max_pixels"
            raise ModelError(what, where=SourceLocation(field="teacher"), hint=hint)
        attach_media(model, student.media, read_media)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Teacher(model, student.vocabulary)


def add_teacher_logprobs(
    examples: Iterable[TrainingExample], objective: Objective, teacher: Teacher
) -> Iterator[TrainingExample]:
    """Yield the examples with the teacher's likeliest tokens at each trained token."""
    waiting = iter(examples)
    while some := list(islice(waiting, TOGETHER)):
        rows = [row for example in some for row in example.rows]
        taught_rows = iter(_add_teacher_choices(rows, objective, teacher))
        for example in some:
            yield replace(example, rows=tuple(islice(taught_rows, len(example.rows))))


def _add_teacher_choices(rows: list[TokenRow], objective: Objective, teacher: Teacher) -> list[TokenRow]:
    from luthier.models.packing.parallel import run_packs

    taught: dict[int, TokenRow] = {}
    numbered = [replace(row, key=str(at)) for at, row in enumerate(rows)]
    read = run_packs(teacher.model, numbered, PACK_TOKENS, lambda pack: objective.ready(pack, teacher))
    for pack, ready_pack in read:
        assert ready_pack.choices is not None, "a teacher was asked"
        assert ready_pack.teacher is not None, "and has answered"
        for at, key in enumerate(pack.keys):
            mine = pack.path == at
            choices, teacher_logps = ready_pack.choices[mine].tolist(), ready_pack.teacher[mine].tolist()
            taught[int(key)] = replace(rows[int(key)], choices=choices, teacher=teacher_logps)
    return [taught[at] for at in range(len(rows))]
