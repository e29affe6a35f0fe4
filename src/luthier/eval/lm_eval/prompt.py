"""Prompts as the harness writes them: templates, shots in its own order, delimiters, prefixes of answers."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.eval.lm_eval.config import Config, FewshotConfig
from luthier.eval.lm_eval.rows import Doc, HarnessDataset

if TYPE_CHECKING:
    from jinja2 import Template

SEED = 1234
"""From which the harness draws shots unless it is told otherwise."""


class HarnessPromptBuilder:
    """Writes one task's questions."""

    def __init__(self, config: Config, rows: HarnessDataset) -> None:
        self.config = config
        split = config.test_split or config.validation_split
        if split is None:
            what = f"task {config.task!r} has neither a test nor a validation split"
            raise RecipeError(what, where=SourceLocation(field="test_split"))
        self.docs = rows.split(split)
        self._rows = rows
        self._fields = frozenset(self.docs[0])
        first = self.docs[0]
        self.many_inputs = config.doc_to_choice is not None and isinstance(self.text(first), int)

    def contexts(self, count: int, shots: int, seed: int) -> list[str | list[str]]:
        """What stands before the answer of each of the first rows; one a choice, where choices stand in the question.

        Shots are drawn row after row from one stream, as the harness draws them.
        """
        pool, chance = self._pool() if shots else [], random.Random(seed)
        return [self._context(doc, self._drawn(pool, shots, doc, chance)) for doc in self.docs[:count]]

    def text(self, doc: Doc, template: str | int | None = None) -> str | int:
        """The question, or the number of the choice that stands in it."""
        template = self.config.doc_to_text if template is None else template
        if isinstance(template, int):
            return template
        value = self._field(template, doc)
        if not isinstance(value, str) or template in self._fields:
            return value  # type: ignore[no-any-return]  # a field may hold the number of a choice
        return int(value) if value.isdigit() and self.config.doc_to_choice is not None else value

    def target(self, doc: Doc, template: Any = None) -> Any:
        """The right answer: a text, the number of a choice, or a list of either."""
        template = self.config.doc_to_target if template is None else template
        if not isinstance(template, str):
            return template
        value = self._field(template, doc)
        if template in self._fields:
            return value
        if value.isdigit() and self.config.doc_to_choice is not None:
            return ast.literal_eval(value)
        if len(value) >= 2 and value[0] == "[" and value[-1] == "]":
            try:
                return ast.literal_eval(value)
            except (SyntaxError, ValueError):
                return value
        return value

    def choices(self, doc: Doc, template: Any = None) -> list[str]:
        """The answers to choose from."""
        template = self.config.doc_to_choice if template is None else template
        if isinstance(template, dict):
            return list(template.values())
        if isinstance(template, list):
            return template
        value = self._field(str(template), doc)
        if template in self._fields:
            return list(value)
        try:
            return list(ast.literal_eval(value))
        except (SyntaxError, ValueError, TypeError) as error:
            what = f"doc_to_choice gives no list, but {value[:80]!r}"
            raise DataError(what, where=SourceLocation(field="doc_to_choice")) from error

    def _context(self, doc: Doc, shown: Sequence[Doc]) -> str | list[str]:
        config = self.config
        before = str(self._said(config.description, doc) or "")
        before += "".join(self._shot(one, config.shots) for one in shown)
        prefix = self._said(config.gen_prefix, doc)
        if self.many_inputs:
            return [before + self._turn(choice, prefix, "") for choice in self.choices(doc)]
        return before + self._turn(str(self.text(doc)), prefix, config.target_delimiter)

    def _turn(self, question: str, prefix: str | None, delimiter: str) -> str:
        """A question that waits for its answer."""
        return question + (delimiter if prefix and _apart(question, prefix) else "") + (prefix or "")

    def _shot(self, doc: Doc, shots: FewshotConfig) -> str:
        """A question with its answer."""
        question, answer = self.text(doc, shots.doc_to_text), self.target(doc, shots.doc_to_target)
        choices = None if shots.doc_to_choice is None else self.choices(doc, shots.doc_to_choice)
        if self.many_inputs and choices is not None:
            question, choices = choices[int(question)], None
        if choices and isinstance(answer, int):
            answer = choices[answer]
        elif isinstance(answer, list):
            answer = answer[0]
        if not isinstance(answer, str):
            raise DataError(f"the answer of a shot is no text: {answer!r}", where=SourceLocation(field="doc_to_target"))
        prefix = self._said(shots.gen_prefix, doc)
        if not answer:
            return self._turn(str(question), prefix, str(shots.target_delimiter))
        delimiter = shots.target_delimiter if not prefix or _apart(str(question), prefix) else ""
        return f"{question}{delimiter}{_joined(prefix, answer)}{shots.fewshot_delimiter}"

    def _pool(self) -> list[Doc]:
        """The rows that shots are drawn from."""
        config, shots = self.config, self.config.shots
        if shots.split is None and shots.samples is not None:
            return list(shots.samples)
        usual = config.training_split or config.validation_split or config.test_split
        return self._rows.split(shots.split or str(usual))

    def _drawn(self, pool: list[Doc], count: int, doc: Doc, chance: random.Random) -> list[Doc]:
        """The shots of one row; never the row itself, where both come from one split."""
        if not count:
            return []
        shots = self.config.shots
        own = doc if shots.split == self.config.test_split else None
        if shots.sampler == "first_n":
            others = pool if own is None else [one for one in pool if one != own]
            return self._enough(others[:count], count)
        known = [pool[at] for at in shots.fewshot_indices] if shots.fewshot_indices else pool
        requested = count + (own is not None)
        if len(known) < requested:
            return self._enough(known, requested)
        found = chance.sample(known, requested)
        if own is None:
            return found
        found = [one for one in found if one != own][:count]
        if len(found) == count:
            return found
        others = [one for one in known if one != own]
        return chance.sample(others, count) if len(others) >= count else self._enough(others, count)

    def _enough(self, found: list[Doc], count: int) -> list[Doc]:
        if len(found) < count:
            what = f"{count} rows to draw shots from are wanted, {len(found)} are there"
            raise DataError(what, where=SourceLocation(field="num_fewshot"), hint="set a smaller `num_fewshot`")
        return found

    def _said(self, template: str | None, doc: Doc) -> Any:
        return self._field(template, doc) if template else None

    def _field(self, template: str, doc: Doc) -> Any:
        """A field of the row by its name, else a template filled with the row."""
        return doc[template] if template in doc else _filled(template, doc)


def _apart(before: str, after: str) -> bool:
    """Whether neither side brings white space along."""
    return bool(before) and not (before[-1].isspace() or after[0].isspace())


def _joined(before: str | None, after: str) -> str:
    if not before:
        return after
    return f"{before} {after}" if _apart(before, after) else before + after


def _filled(template: str, doc: Doc) -> str:
    from jinja2 import TemplateError

    try:
        return _template(template).render(**doc)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        what = f"the template {template[:60]!r} cannot be filled: {error}"
        raise DataError(what, hint=f"the row has {', '.join(doc)}") from error


@lru_cache(maxsize=64)
def _template(text: str) -> Template:
    """A template in a sandbox: it sees the row, and nothing of this program."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    room = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    room.filters["regex_replace"] = lambda value, pattern, new, count=0: re.sub(pattern, new, value, count=count)
    return room.from_string(text)
