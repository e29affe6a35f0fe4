"""A proposed recipe as text: YAML with the reason beside whatever was chosen from the data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from textwrap import wrap
from typing import Any, NamedTuple

from luthier.auto.advice.training import suggest_training_for_proposal, why_try_plain_classifier
from luthier.commands.advise import advise_without_costs, describe_quality
from luthier.core.errors import InputError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.data.suggest.profile import SourceProfile
from luthier.data.suggest.propose import RecipeProposal, asks_every_turn
from luthier.data.suggest.survey import SEED

_RARE = 0.5
"""A class with less than this share of the most frequent one's rows is rare."""

PLAIN_FIRST = "luthier run recipe.yaml 'steps.tune={kind: tune, data: data, technique: plain}' --only report"
"""The proposed recipe with a plain classifier in place of the network."""


class BaseModelChoice(NamedTuple):
    """The base model of a recipe."""

    model: str = "smollm2-135m-instruct"
    chat_template: str | None = None
    """What takes the place of the model's own."""
    why: str = ""
    """Why it does, or why it should."""


DEFAULT_BASE = BaseModelChoice()


def render_recipe(proposal: RecipeProposal, name: str, base: BaseModelChoice = DEFAULT_BASE) -> str:
    """The whole recipe as YAML, with a comment wherever something was chosen from the data."""
    return "\n".join(_lines(proposal, name, base)) + "\n"


def _lines(proposal: RecipeProposal, name: str, base: BaseModelChoice) -> Iterator[str]:
    profile = proposal.profile
    yield f"# Made from {_one_line(profile.size_told)}."
    yield f"# Numbers in the comments below are from rows seen: {profile.looked_at}."
    yield from (f"# {_one_line(note)}" for note in dict.fromkeys(profile.notes))
    yield "# `luthier plan` shows what would be done, `luthier run` does it."
    yield "luthier: 1"
    yield f"name: {_scalar(name)}"
    yield f"seed: {SEED}"
    if proposal.technique == "plain":
        yield "steps:"
        yield from _data_lines(proposal)
        yield from _plain_rest(proposal)
        return
    yield f"model: {_scalar(base.model)}"
    if base.why:
        yield f"# {_one_line(base.why)}"
    if base.chat_template:
        yield f"chat_template: {_scalar(base.chat_template)}"
    yield "steps:"
    yield from _data_lines(proposal)
    yield from _rest(proposal, base)


def _data_lines(proposal: RecipeProposal) -> Iterator[str]:
    """The step that prepares the data."""
    yield "  data:"
    yield "    kind: prepare"
    yield from _source_lines(proposal)
    yield from _operator_lines(proposal)
    yield "    split:"
    for key, value in proposal.split.items():
        yield from _explained("      ", key, value, proposal.reasons.get(f"split.{key}"))
    yield from _explained("    ", "task", proposal.task, proposal.reasons["task"])


def _source_lines(proposal: RecipeProposal) -> Iterator[str]:
    yield "    source:"
    for key, value in proposal.source.items():
        yield from _explained("      ", key, value, proposal.reasons.get(f"source.{key}"))
    spoken = " ".join(str(value) for value in proposal.source.values())
    rest = [
        column for column in proposal.profile.columns if not re.search(rf"(?<!\w){re.escape(column)}(?!\w)", spoken)
    ]
    own = {"id", "messages", "meta"} <= set(proposal.profile.columns) and "messages" not in proposal.source
    if rest and not own:
        yield f"      # not mapped, kept with every row in `meta`: {_one_line(', '.join(rest))}"
    if "group" not in proposal.source and (why := proposal.reasons.get("source.group")):
        yield f"      # group: {_one_line(why)}"


def _operator_lines(proposal: RecipeProposal) -> Iterator[str]:
    yield "    ops:" if proposal.ops else "    ops: []"
    for one in proposal.ops:
        kind = one["kind"]
        why = _one_line(proposal.reasons[f"ops.{kind}"])
        yield from (f"      # {line}" for line in wrap(why, 110, break_long_words=False, break_on_hyphens=False))
        for change in proposal.examples.get(kind, ()):
            yield f"      #   {_quoted(change.before)} → {_quoted(change.after)}"
        inner = ", ".join(f"{key}: {_scalar(value)}" for key, value in one.items())
        yield f"      - {{{inner}}}" if len(one) > 1 else f"      - {kind}"


def _quoted(text: str) -> str:
    """A text as one line between quotes; what is invisible is spelled out."""
    return f'"{"".join(char if char.isprintable() and char != chr(160) else _spelled(char) for char in text)}"'


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _rest(proposal: RecipeProposal, base: BaseModelChoice) -> Iterator[str]:
    wished = suggest_training_for_proposal(proposal)
    more = "".join(f", {name}: {value}" for name, value in wished.settings.items())
    rules = ", ".join(json.dumps(rule) for rule in proposal.rules)
    yield from _validation_lines(proposal)
    yield from _balancing(proposal.profile)
    yield from _advice_lines(proposal, base)
    yield "  # A small adapter: the base model's weights stay as they are."
    if wished.why:
        yield f"  # {wished.why} (`luthier docs choose-technique`)."
    if why := proposal.reasons.get("objective.train_on"):
        yield f"  # {_one_line(why)}."
    objective = proposal.objective if proposal.learn == "last" else f"{{kind: {proposal.objective}, train_on: all}}"
    yield f"  tune: {{kind: tune, data: data, technique: {{kind: lora, r: 16}}, objective: {objective}{more}}}"
    yield "  # On rows that were not trained on, beside the base model and plain baselines."
    turns = ""
    if asks_every_turn(proposal.profile, proposal.learn):
        yield "  # Every turn of the assistant is asked, each after the true history before it: calls are not last."
        turns = ", turns: all"
    yield f"  report: {{kind: evaluate, data: data, model: tune, metrics: [{', '.join(proposal.metrics)}]{turns}}}"
    yield "  # PASS only when the improvement over the base model is clear of chance."
    yield f"  gate: {{kind: gate, evaluation: report, rules: [{rules}]}}"


def _validation_lines(proposal: RecipeProposal) -> Iterator[str]:
    """The step that looks for what is wrong with the rows."""
    yield "  # What might be wrong with the rows, looked at before they are trained on; the report tells."
    for name in ("rows", "classes"):
        if why := proposal.reasons.get(name):
            yield f"  # {_one_line(why)}"
    yield "  validate: {kind: validate, data: data}"
    if why := proposal.reasons.get("unlabeled"):
        yield f"  # {_one_line(why)}:"
        yield "  # unlabeled: {kind: unlabeled, data: data}"


def _plain_rest(proposal: RecipeProposal) -> Iterator[str]:
    """The steps of a recipe that trains a plain classifier."""
    if proposal.task != "label":
        hint = "take lora, or name a column of classes by --answer"
        where = SourceLocation(field="--technique")
        raise InputError("plain chooses one of a few classes, and the answers are free text", where=where, hint=hint)
    yield from _validation_lines(proposal)
    yield "  # TF-IDF of words with logistic regression: no base model, seconds."
    yield "  tune: {kind: tune, data: data, technique: plain}"
    yield "  # On rows that were not trained on, beside plain baselines."
    yield f"  report: {{kind: evaluate, data: data, model: tune, metrics: [{', '.join(proposal.metrics)}]}}"
    yield "  # PASS only when it is clearly better than to name the most frequent class each time."
    yield '  gate: {kind: gate, evaluation: report, rules: ["macro_f1 > majority"]}'


def _advice_lines(proposal: RecipeProposal, base: BaseModelChoice) -> Iterator[str]:
    """The techniques for rows with classes, the first choice first, and how to try a plain classifier before a network
    where that is worth it."""
    if (proposal.objective, proposal.task) != ("sft", "label"):
        return
    ranking = advise_without_costs(proposal, base.model).ranking
    yield "  # The techniques by what is expected of them; `luthier advise` tells more, with time, memory and evidence:"
    for number, one in enumerate(ranking.techniques, 1):
        yield f"  # {number}. {one.technique}: {describe_quality(one, ranking.metric)}: {_one_line(one.reason)}"
    if why := why_plain_first(proposal, base.model):
        yield f"  # {_one_line(why[0].upper() + why[1:])}. Try it first:"
        yield f"  # {PLAIN_FIRST}"


def why_plain_first(proposal: RecipeProposal, model: str) -> str:
    """Why a plain classifier should be tried before a network over this model; empty where it need not."""
    if (proposal.objective, proposal.task) != ("sft", "label"):
        return ""
    first = advise_without_costs(proposal, model).ranking.first
    if first is not None and first.technique == "plain":
        return f"a network is expected to add a point at most: {first.reason}"
    return why_try_plain_classifier(proposal)


def _balancing(profile: SourceProfile) -> Iterator[str]:
    """A way to more rows of rare classes, for the user to switch on."""
    counts = {label: rows for label, rows in profile.answers.items() if label not in profile.spellings}
    if len(counts) < 2:
        return
    rarest, most = min(counts, key=counts.__getitem__), max(counts.values())
    rows = counts[rarest]
    if rows >= _RARE * most:
        return
    share = f"{format_counted_noun(rows, 'row')}, the most frequent one {most}"
    if meant := get_close_matches(rarest, counts.keys() - {rarest}, n=1, cutoff=0.8):
        yield f"  # Is the class {_one_line(rarest)} a slip? Then write among `ops`:"
        yield f"  # - {{kind: label_spelling, also: {{{_scalar(rarest)}: {_scalar(meant[0])}}}}}"
    yield f"  # The class {_one_line(rarest)} has {share}. Made rows may help it:"
    yield "  # uncomment the next line, and let tune and report say `data: more` (`luthier docs augment`)."
    yield f"  # more: {{kind: augment, data: data, augmenters: [{{kind: balance, ratio: {_RARE}}}]}}"


def _explained(indent: str, key: str, value: Any, why: str | None) -> Iterator[str]:
    if why:
        yield f"{indent}# {_one_line(why)}"
    yield f"{indent}{key}: {_scalar(value)}"


_PLAIN = re.compile(r"[A-Za-z_][\w./ -]*[\w]|[A-Za-z_]")
_RESERVED = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])


def _scalar(value: Any) -> str:
    """A value as YAML; text that could be read as something else is quoted as JSON, which YAML reads, too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_scalar(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.isascii() and value.lower() not in _RESERVED:
        return value
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _one_line(text: str) -> str:
    """Text for a comment: one line, nothing invisible."""
    return "".join(char if char.isprintable() else " " for char in text)
