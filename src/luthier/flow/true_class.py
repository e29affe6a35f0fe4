"""The true class that a person names for an answer, compared with the classes of the model that answered."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, LuthierError, UnknownName, Where
from luthier.flow.here import find_digest
from luthier.text.dataset import DatasetSummary
from luthier.traffic.record import Feedback, Trace, label_meant

if TYPE_CHECKING:
    from luthier.traffic.recorder import Recorder

_SHOWN = 20
"""Classes that an error lists."""
_FLUSH_S = 5.0
"""Seconds that feedback waits at most for the traces of requests to be written."""


class UnknownClass(UnknownName):
    """A label that is no class of the model that answered."""


def check_label(feedback: Feedback, trace: Trace, *, option: str) -> Feedback:
    """The same feedback with the label as the model writes it; `UnknownClass` for a label that is none of its classes.

    A correction of an answer that was chosen among classes is a label, too. `option` says how to add a new class.
    """
    field = "label" if feedback.label is not None else "correction"
    given = getattr(feedback, field)
    if given is None or (field == "correction" and trace.asked != "label"):
        return feedback
    classes = classes_of(trace)
    meant = label_meant(trace, given)
    if not classes or meant in classes or (trace.answer is not None and meant == trace.answer.content):
        return feedback if meant == given else feedback.model_copy(update={field: meant})
    raise UnknownClass(
        f"{given!r} is no class of {trace.model}",
        where=Where(field=field),
        remedy=f"its classes: {_listed(given, classes)}. To add a new class, {option}",
    )


def classes_of(trace: Trace) -> Sequence[str]:
    """The classes among which the model that answered chooses; none where it writes text, or is not known."""
    if trace.scores:
        return sorted(trace.scores)
    try:
        artifact = find_digest(trace.release) if trace.release else None
    except LuthierError:
        return ()  # the model was removed, or answered elsewhere
    return _learnt_classes(artifact) if artifact is not None else ()


def _learnt_classes(artifact: Artifact) -> Sequence[str]:
    """The classes that a model was tuned on."""
    from luthier.models.load import data_of, outputs_of

    if artifact.manifest.makes != "model":
        return ()
    if heads := outputs_of(artifact):
        return heads
    data = data_of(artifact)
    told = DatasetSummary.read(data) if data is not None else None
    return told.labels if told is not None and told.task == "label" else ()


def _listed(given: str, classes: Sequence[str]) -> str:
    """Classes, the most similar to what was given first."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, given.casefold(), name.casefold()).ratio()

    ranked = sorted(classes, key=lambda name: (-likeness(name), name))
    more = f", and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    return ", ".join(ranked[:_SHOWN]) + more


def check_served(recorder: Recorder, feedback: Feedback) -> Feedback:
    """The same for what comes over HTTP, as a refusal with status 422; a request of which no trace is kept may be about
    anything."""
    from luthier.serve.refusal import Refusal

    trace = _kept(recorder.folder, feedback.trace)
    if trace is None and recorder.flush(_FLUSH_S):  # it may have been answered just now
        trace = _kept(recorder.folder, feedback.trace)
    if trace is None:
        return feedback
    try:
        return check_label(feedback, trace, option='send "new_class": true')
    except UnknownClass as error:
        said = f"{error.message}; {error.remedy}"
        raise Refusal(said, param=error.where.field, code="unknown_class", status=422) from error


def _kept(folder: Path, id: str) -> Trace | None:
    from luthier.traffic.read import find

    try:
        return find(folder, id).trace
    except InputError:
        return None
