"""A proposed recipe as text: YAML with the reason beside whatever was chosen from the data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from textwrap import wrap
from typing import Any, NamedTuple

from luthier.auto.advice.predict import BASE, STANDALONE, STANDARD, RankedTechnique, TechniqueRanking
from luthier.auto.advice.training import explain_plain_classifier, suggest_training_for_proposal
from luthier.commands.advise import advise_without_costs, describe_quality
from luthier.core.errors import InputError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.suggest.profile import SourceProfile
from luthier.data.suggest.propose import RecipeProposal, asks_every_turn
from luthier.data.suggest.survey import SEED
from luthier.models.catalog import CATALOG

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
TRANSCRIBER = "whisper-tiny.en"
"""The base model for sounds with what is said in them; its encoder lets a model of text hear."""
_SHOWN = 4
"""Techniques that are shown at most, beside the plain classifier."""


def render_recipe(
    proposal: RecipeProposal,
    name: str,
    base: BaseModelChoice = DEFAULT_BASE,
    ranking: TechniqueRanking | None = None,
) -> str:
    """The whole recipe as YAML, with a comment wherever something was chosen from the data; the `ranking` of techniques
    is that of `rank_recipe_techniques` when not given."""
    ranking = ranking or rank_recipe_techniques(proposal, base.model)
    return "\n".join(_lines(proposal, name, base, ranking)) + "\n"


def rank_recipe_techniques(proposal: RecipeProposal, model: str) -> TechniqueRanking | None:
    """The techniques for a recipe over a base model, the first choice first; None where rows are no prompts with an
    answer, of which nothing is known."""
    if proposal.objective != "sft":
        return None
    return advise_without_costs(proposal, model).ranking


def choose_technique(ranking: TechniqueRanking | None, *, network: bool) -> str:
    """The technique that a recipe trains: the first choice, or the standard where that is not to tune, or where a
    `network` is wanted and it tunes none."""
    first = ranking.first if ranking is not None else None
    if first is None or first.technique == BASE or (network and first.technique == "plain"):
        return STANDARD
    return first.technique


def explain_technique(technique: str, ranking: TechniqueRanking | None) -> str:
    """Why a recipe trains a technique, and which come next."""
    if ranking is None or ranking.first is None:
        return "the standard, since nothing is known of rows like these"
    techniques = [
        entry for entry in ranking.techniques if entry.technique not in {technique, BASE} and not entry.left_out
    ]
    following = f"next: {', '.join(entry.technique for entry in techniques[:_SHOWN])}"
    chosen = next((entry for entry in ranking.techniques if entry.technique == technique), ranking.first)
    if chosen.thin:
        return f"the standard, since evidence is thin ({chosen.thin}); {following}"
    return f"{chosen.reason}; {following}"


def _lines(
    proposal: RecipeProposal, name: str, base: BaseModelChoice, ranking: TechniqueRanking | None
) -> Iterator[str]:
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
        yield from _plain_rest(proposal, ranking)
        return
    yield f"model: {_scalar(base.model)}"
    senses = choose_encoder_steps(proposal, base)
    if proposal.profile.media and not senses and base.model in CATALOG and base.model != TRANSCRIBER:
        yield "# This model reads text alone. Name one that reads what the rows show or play, or join this one with an"
        yield "# encoder by a step `compose`: `luthier docs vision-models` has both."
    if base.why:
        yield f"# {_one_line(base.why)}"
    if base.chat_template:
        yield f"chat_template: {_scalar(base.chat_template)}"
    yield "steps:"
    yield from _data_lines(proposal)
    yield from _rest(proposal, ranking, senses)


def choose_transcriber(proposal: RecipeProposal) -> BaseModelChoice | None:
    """The base model for rows that are a sound and what is said in it; None for other rows."""
    prompt = proposal.source.get("prompt")
    alone = prompt is None or "{" not in str(prompt)
    if set(proposal.profile.media) != {"audio"} or proposal.task == "label" or proposal.objective != "sft" or not alone:
        return None
    why = "The rows are sounds with what is said in them, and this model transcribes English; take a multilingual or "
    return BaseModelChoice(TRANSCRIBER, why=f"{why}larger Whisper for more: `luthier docs speech-models`")


def choose_encoder_steps(proposal: RecipeProposal, base: BaseModelChoice) -> str:
    """The medium that a model of text is joined with an encoder for: `image`, `audio`, or none."""
    kinds = set(proposal.profile.media)
    if len(kinds) != 1 or proposal.objective != "sft" or base.model not in CATALOG or base.model == TRANSCRIBER:
        return ""
    return next(iter(kinds))


def _encoder_lines(medium: str) -> Iterator[str]:
    """The steps that join a model of text with an encoder, and let what is new learn alone."""
    if medium == "audio":
        source = ", ".join(f"{name}: {_scalar(value)}" for name, value in CATALOG[TRANSCRIBER].source.items())
        yield "  # The model reads text alone: Whisper's encoder and a new projector let it hear."
        yield f"  whisper: {{kind: base, source: {{{source}}}}}"
        yield "  # `seconds: 5` is much quicker where no sound is longer; 30 is the most."
        yield "  ears: {kind: compose, audio_encoder: whisper}"
        joined, names, rate, epochs = "ears", ["*multi_modal_projector*"], "2.0e-3", 6
    else:
        yield "  # The model reads text alone: a new encoder and projector let it see simple shapes and colors. For"
        yield "  # photographs name the folder of a CLIP or SigLIP model (`encoder: models/siglip`), or in place of all"
        yield "  # this a base model that reads pictures: `luthier docs vision-models`."
        encoder = "{image_size: 56, patch_size: 14, hidden_size: 192, layers: 4, heads: 3}"
        yield f"  eyes: {{kind: compose, encoder: {encoder}}}"
        names = ["*vision_tower.embeddings*", "*vision_tower.encoder*", "*multi_modal_projector*"]
        joined, rate, epochs = "eyes", "5.0e-4", 8
    yield "  # What is new learns alone first."
    technique = f"{{kind: layers, last: 0, names: {json.dumps(names)}}}"
    settings = f"objective: sft, epochs: {epochs}, batch_size: 16, learning_rate: {rate}"
    yield f"  align: {{kind: tune, data: data, model: {joined}, technique: {technique}, {settings}}}"


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
    for entry in proposal.ops:
        kind = entry["kind"]
        why = _one_line(proposal.reasons[f"ops.{kind}"])
        yield from (f"      # {line}" for line in wrap(why, 110, break_long_words=False, break_on_hyphens=False))
        for change in proposal.examples.get(kind, ()):
            yield f"      #   {_quoted(change.before)} → {_quoted(change.after)}"
        inner = ", ".join(f"{key}: {_scalar(value)}" for key, value in entry.items())
        yield f"      - {{{inner}}}" if len(entry) > 1 else f"      - {kind}"


def _quoted(text: str) -> str:
    """A text as one line between quotes; what is invisible is spelled out."""
    return f'"{"".join(char if char.isprintable() and char != chr(160) else _spelled(char) for char in text)}"'


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _rest(proposal: RecipeProposal, ranking: TechniqueRanking | None, senses: str) -> Iterator[str]:
    rules = ", ".join(json.dumps(rule) for rule in proposal.rules)
    yield from _validation_lines(proposal)
    yield from _balancing(proposal.profile)
    yield from _advice_lines(ranking)
    if why := why_plain_first(proposal, ranking):
        yield f"  # {_one_line(why[0].upper() + why[1:])}. Try it first:"
        yield f"  # {PLAIN_FIRST}"
    if senses:
        yield from _encoder_lines(senses)
    yield from _training_lines(proposal, "align" if senses else "")
    yield "  # On rows that were not trained on, beside the base model and plain baselines."
    turns = ""
    if asks_every_turn(proposal.profile, proposal.learn):
        yield "  # Every turn of the assistant is asked, each after the true history before it: calls are not last."
        turns = ", turns: all"
    yield f"  report: {{kind: evaluate, data: data, model: tune, metrics: [{', '.join(proposal.metrics)}]{turns}}}"
    yield "  # PASS only when the improvement over the base model is clear of chance."
    yield f"  gate: {{kind: gate, evaluation: report, rules: [{rules}]}}"


def _training_lines(proposal: RecipeProposal, model: str) -> Iterator[str]:
    """The step that tunes a base model, or the one that the step `model` makes."""
    if proposal.technique in STANDALONE:
        yield f"  tune: {{kind: tune, data: data, technique: {proposal.technique}}}"
        return
    wished = suggest_training_for_proposal(proposal)
    if proposal.technique == STANDARD:
        yield "  # A small adapter: the base model's weights stay as they are."
    if wished.why:
        yield f"  # {wished.why} (`luthier docs choose-technique`)."
    if why := proposal.reasons.get("objective.train_on"):
        yield f"  # {_one_line(why)}."
    technique = "{kind: lora, r: 16}" if proposal.technique == STANDARD else proposal.technique
    if model and proposal.technique == STANDARD:
        technique = "{kind: lora, r: 16, on: [language, projector]}"
    named = f", model: {model}" if model else ""
    objective = proposal.objective if proposal.learn == "last" else f"{{kind: {proposal.objective}, train_on: all}}"
    more = "".join(f", {name}: {value}" for name, value in wished.settings.items())
    yield f"  tune: {{kind: tune, data: data{named}, technique: {technique}, objective: {objective}{more}}}"


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


def _plain_rest(proposal: RecipeProposal, ranking: TechniqueRanking | None) -> Iterator[str]:
    """The steps of a recipe that trains a plain classifier."""
    if proposal.task != "label":
        hint = "take lora, or name a column of classes by --answer"
        where = SourceLocation(field="--technique")
        raise InputError("plain chooses one of a few classes, and the answers are free text", where=where, hint=hint)
    if proposal.is_media_alone:
        what = "plain weighs words, and these rows are pictures or sounds without any"
        raise InputError(what, where=SourceLocation(field="--technique"), hint="take lora")
    yield from _validation_lines(proposal)
    yield from _advice_lines(ranking)
    yield "  # TF-IDF of words with logistic regression: no base model, seconds."
    yield "  # `luthier new NAME --from FILE --technique lora` writes the recipe for an adapter of a base model."
    yield "  tune: {kind: tune, data: data, technique: plain}"
    yield "  # On rows that were not trained on, beside plain baselines."
    yield f"  report: {{kind: evaluate, data: data, model: tune, metrics: [{', '.join(proposal.metrics)}]}}"
    yield "  # PASS only when it is clearly better than to name the most frequent class each time."
    yield '  gate: {kind: gate, evaluation: report, rules: ["macro_f1 > majority"]}'


def _advice_lines(ranking: TechniqueRanking | None) -> Iterator[str]:
    """The techniques, the first choice first, and whether little is known of these rows."""
    if ranking is None or (first := ranking.first) is None:
        return
    yield "  # The techniques by what is expected of them; `luthier advise` tells more, with time, memory and evidence:"
    choices = [technique for technique in ranking.techniques if not technique.left_out]
    for number, choice in enumerate(choices, 1):
        if number <= _SHOWN or choice.technique == "plain":
            yield f"  # {number}. {_described(choice, ranking.metric)}"
    if first.thin:
        yield f"  # Evidence is thin ({first.thin}), so that the standard comes first: {first.technique}."


def _described(one: RankedTechnique, metric: str) -> str:
    return f"{one.technique}: {describe_quality(one, metric)}: {_one_line(one.reason)}"


def why_plain_first(proposal: RecipeProposal, ranking: TechniqueRanking | None) -> str:
    """Why a plain classifier should be tried before a network; empty where it need not."""
    if ranking is None or proposal.task != "label" or proposal.profile.media:
        return ""
    if ranking.first is not None and ranking.first.technique == "plain":
        return gettext_noop(f"a network is expected to add a point at most: {ranking.first.reason}")
    return explain_plain_classifier(proposal)


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
