"""What `luthier show --rendered` tells: training rows as the model sees them, trained tokens marked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.counted import counted
from luthier.core.errors import InputError, UnknownName, Where, did_you_mean
from luthier.core.events import Events
from luthier.core.step import Work
from luthier.flow.locate import Target, find_plan
from luthier.flow.plan import Plan

if TYPE_CHECKING:
    from luthier.flow.recipe import Recipe
    from luthier.tune.rendered import RenderedRow, Sequenced
    from luthier.tune.steps.tune import Tune

OPEN, CLOSE = "⟦", "⟧"
"""What stands around trained tokens, so that they are told apart without colour."""


class Piece(NamedTuple):
    """Text to print, and whether it is of trained tokens."""

    text: str
    trained: bool = False


class ShownRows(NamedTuple):
    """Rows as the model sees them: facts for programs, and pieces of text for people."""

    facts: dict[str, Any]
    pieces: list[Piece]


def show_rendered(named: Target | str | None, number: int, *, ids: bool = False) -> ShownRows:
    """The first training rows of a step that tunes, or of the one that trains on a data set.

    `named` is RECIPE:STEP or RUN:STEP, a step of the recipe here, or a recipe that tunes once.
    """
    from luthier.models.load import base_folder, name_of, refuse_endpoint
    from luthier.tune.rendered import rendered_rows
    from luthier.tune.tool_rows import refuse_tool_rows

    target = Target.of(named)
    file, name = _split(target.word)
    what = find_plan(Target(file, target.overrides), step=f":{name or 'STEP'}")
    recipe = what.recipe
    chosen, step = _tuning(recipe, name)
    inputs = {field: _made(what, chosen, field) for field in ("data", "model")}
    refuse_endpoint(inputs["model"])
    refuse_tool_rows(inputs["data"], inputs["model"])
    with tempfile.TemporaryDirectory() as scratch:
        work = Work(
            name=chosen, inputs=inputs, folder=Path(scratch), scratch=Path(scratch), base=recipe.base,
            seed=recipe.seed, events=Events().of(chosen),
        )  # fmt: skip
        rows = rendered_rows(step, work, number)
    base = name_of(inputs["model"])
    facts = {
        "recipe": recipe.name,
        "step": chosen,
        "model": base,
        "tokenizer": str(base_folder(inputs["model"])),
        "objective": step.objective.settings(),
        "rows": [row.as_json(ids=True) for row in rows],
    }
    head = f"{counted(len(rows), 'row')} as {base} sees them in {chosen}"
    head += f"; tokens between {OPEN} and {CLOSE} are trained on\n"
    return ShownRows(facts, [Piece(head), *(piece for row in rows for piece in _pieces(row, step, ids=ids))])


def _split(word: str | None) -> tuple[str | None, str | None]:
    """The recipe, or the run, and the step that a word names."""
    if word is None:
        return None, None
    file, colon, name = word.rpartition(":")
    if colon:
        return file or None, name
    return (word, None) if Target(word).is_recipe else (None, word)


def _tuning(recipe: Recipe, name: str | None) -> tuple[str, Tune]:
    """The step that trains: the one that is named, or the only one that reads the named data."""
    from luthier.tune.steps.tune import Tune
    from luthier.tune.technique import StandaloneTechnique

    tunes = {key: step for key, step in recipe.steps.items() if isinstance(step, Tune)}
    if name is not None and name not in recipe.all_steps():
        where = Where(file=recipe.file, field="steps")
        raise UnknownName(f"there is no step {name!r}", where=where, remedy=did_you_mean(name, recipe.steps))
    if name in tunes:
        found = [name]
    else:
        found = [key for key, step in tunes.items() if name is None or recipe.references(step).get("data") == name]
    if len(found) != 1:
        raise _unclear(recipe, name, found, list(tunes))
    chosen = found[0]
    if isinstance(tunes[chosen].technique, StandaloneTechnique):
        what = f"{tunes[chosen].technique.kind} moves no weights: no token is trained on"
        raise InputError(what, where=Where(file=recipe.file, field=f"steps.{chosen}"), remedy="name another step")
    return chosen, tunes[chosen]


def _unclear(recipe: Recipe, name: str | None, found: Sequence[str], tunes: Sequence[str]) -> InputError:
    """Why it is not clear by which step rows are read."""
    of = f"on {name!r}" if name is not None else "here"
    example = f"luthier show {recipe.file}:{(found or tunes or ['STEP'])[0]} --rendered 3"
    where = Where(file=recipe.file, field="steps")
    if found:
        return InputError(f"several steps train {of}: {', '.join(found)}", where=where, remedy=f"name one: {example}")
    remedy = f"name a step that tunes: {example}" if tunes else "add a step of kind `tune` that reads it"
    return UnknownName(f"no step trains {of}, so that no model says how rows are read", where=where, remedy=remedy)


def _made(what: Plan, step: str, field: str) -> Any:
    """An input of a step that is made; `UnknownName` says what makes it."""
    planned = what[step]
    if what.store.has(digest := planned.inputs[field]):
        return what.store.open(digest)
    missing = [other for name, other in what.recipe.references(planned.step).items() if name in ("data", "model")]
    only = " ".join(f"--only {other}" for other in missing if not what[other].cached)
    remedy = f"`luthier run {what.recipe.file} {only}` makes what is read, and trains nothing"
    where = Where(file=what.recipe.file, field=f"steps.{step}.{field}")
    raise UnknownName(f"the {field} that {step!r} reads is not made yet", where=where, remedy=remedy)


def _pieces(row: RenderedRow, step: Tune, *, ids: bool) -> Iterator[Piece]:
    yield Piece(f"\n── {row.origin.file}:{row.origin.line}  {row.id}\n")
    if row.nothing:
        yield Piece(f"left out: {row.nothing}\n")
    for sequence in row.sequences:
        yield Piece(f"{_counts(row, sequence, step)}\n")
        yield from _by_token(sequence) if ids else _by_stretch(sequence)


def _counts(row: RenderedRow, sequence: Sequenced, step: Tune) -> str:
    """How much is read and trained on, and what was cut off."""
    name = f"{sequence.name}: " if sequence.name else ""
    kept = {"prompt": "the oldest of the prompt", "right": "the end of the row"}.get(
        getattr(step.objective, "too_long", ""), ""
    )
    cut = f", {row.cut:,} cut off{f' ({kept})' if kept else ''}" if row.cut else ""
    drawn = "; the model's own answers are trained on, which it writes in training" if step.objective.draws else ""
    return f"{name}{counted(len(sequence.tokens), 'token')}, {sequence.trained:,} trained on{cut}{drawn}"


def _by_stretch(sequence: Sequenced) -> Iterator[Piece]:
    for stretch in sequence.stretches:
        text = _visible(stretch.text)
        yield Piece(f"{OPEN}{text}{CLOSE}" if stretch.trained else text, stretch.trained)
    yield Piece("\n")


def _by_token(sequence: Sequenced) -> Iterator[Piece]:
    """A line a token: its place, its id, whether it is trained on, its text."""
    for place, token in enumerate(sequence.tokens):
        marks = (OPEN, CLOSE) if token.trained else (" ", " ")
        yield Piece(f"{place:6} {token.id:8} {marks[0]}{token.text!r}{marks[1]}\n", token.trained)


def _visible(text: str) -> str:
    """Text that a terminal prints as it is: what would move its cursor or change its colours is spelled out."""
    return "".join(char if char.isprintable() or char in "\n\t" else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()
