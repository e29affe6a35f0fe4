"""Propose a recipe for a dataset, a source or the traces of a served model."""

from __future__ import annotations

import posixpath
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from luthier.artifacts.findings import FEWEST_ROWS
from luthier.core.component import add_field_descriptions, components_by_kind
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName, did_you_mean
from luthier.core.events import format_counted_noun, format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.data.checks.few_rows import FEW_ROWS, severity_of_row_count
from luthier.data.checks.imbalance import FEW_REMEDY, FEWEST_OF_CLASS, describe_small_classes
from luthier.data.columns.choose import LayoutChoice, Task, describe_class_count
from luthier.data.columns.layouts import Layout
from luthier.data.columns.mapping import ColumnTemplate
from luthier.data.columns.media import MEDIA_NAMES
from luthier.data.columns.recognize import build_source_for_path
from luthier.data.formats.media_files import guess_media_folder
from luthier.data.operator import Operator
from luthier.data.source import Source
from luthier.data.sources.traces import TraceOutput, Traces, choose_trace_target
from luthier.data.suggest.profile import SHORT_ANSWER_WORDS, ChangeExample, SourceProfile
from luthier.data.suggest.survey import SHARES, survey_source

_MOST_NAMED_CLASSES = 30
_ENOUGH_HELD_OUT = 100
_NO_CHANCE = 10
_FAR_FEWER = 0.25
"""Where at least so many rows are to be held out, so small a part of them falls by chance once in a thousand times."""

_SHORT_VALUES = " different short values in "
"""In the reason for a column of classes."""
Want = Literal["answer", "classify", "extract", "rewrite", "prefer"]
"""What is wanted of a model: a free answer, one of a few classes, facts as JSON, the same text in another form, or the
answers that people prefer."""
WANTS: tuple[Want, ...] = get_args(Want)
_JSON_FROM = 0.9
"""Where at least so many answers are JSON, facts are extracted."""
_ALIKE_FROM = 0.5
"""Where at least so many answers share most of their words with what was asked, texts are rewritten."""
_MOST_KEYS = 24
_ONE_SIDED = frozenset({"quality"})
"""Operators that leave a pair out for what its preferred answer is, whatever the other one is."""


class RecipeProposal(BaseModel):
    """The data part of a recipe, and why it is as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    task: Task
    source: dict[str, Any]
    ops: list[dict[str, Any]]
    split: dict[str, Any]
    reasons: dict[str, str]
    """Why, by dotted path: `source.prompt`, `ops.pii`, `split.test`, `task`."""
    examples: dict[str, tuple[ChangeExample, ...]]
    """What an operator would do to some of the rows, by its kind."""
    metrics: list[str]
    rules: list[str]
    """For the gate."""
    objective: str = "sft"
    """What is learnt from the rows."""
    learn: Literal["last", "all"] = "last"
    """Which assistant turns are trained on; `objective.train_on` in `reasons` says why where it is not the last."""
    left: int
    """About how many rows the operators leave."""
    technique: str = "lora"
    """The kind of technique that is trained."""
    want: Want = "answer"
    """What is wanted: as it was asked for, or as the rows look."""
    profile: SourceProfile

    @property
    def is_media_alone(self) -> bool:
        """Whether what is asked is a picture or a sound, without a word."""
        prompt = str(self.source.get("prompt") or "")
        template = ColumnTemplate.parse(prompt, "prompt")
        words = "".join(literal for literal, _ in template.pieces).strip()
        return bool(self.profile.media and prompt) and {*template.columns} <= {*MEDIA_NAMES} and not words

    def prepare(self) -> dict[str, Any]:
        """The settings of the step `prepare`."""
        ops = [entry["kind"] if len(entry) == 1 else entry for entry in self.ops]
        return {"kind": "prepare", "source": self.source, "ops": ops, "split": self.split, "task": self.task}


def exclude_operators(proposal: RecipeProposal, kinds: Collection[str]) -> RecipeProposal:
    """The proposal without some of its operators; `UnknownName` for one that it does not have."""
    proposed = [entry["kind"] for entry in proposal.ops]
    for kind in kinds:
        if kind not in proposed:
            where, hint = SourceLocation(field="--without"), did_you_mean(kind, proposed)
            raise UnknownName(f"the operator {kind!r} is not proposed for these rows", where=where, hint=hint)
    ops = [entry for entry in proposal.ops if entry["kind"] not in kinds]
    return proposal.model_copy(update={"ops": ops, "left": _left(proposal.profile, ops)})


def propose_recipe(
    path: Path | str,
    *,
    task: Task | None = None,
    shown: str | None = None,
    prompt: str | None = None,
    answer: str | None = None,
    want: Want | None = None,
    quick: bool = False,
) -> RecipeProposal:
    """Propose a recipe for a file, a folder, a pattern or a URL; `shown` is what to write into it as the path.

    `prompt` and `answer` are columns, or templates of them, for who knows the file; else they are chosen. After a
    `quick` look, nothing is known of what operators would do.
    """
    read, base = build_source_for_path(path)
    written = {"kind": read.kind, "path": shown or read.path}
    requested = Layout(prompt=prompt, answer=answer)
    return propose_recipe_from_source(
        read, base, read.path, written, task=task, requested_layout=requested, want=want, quick=quick
    )


def propose_recipe_from_source(  # noqa: PLR0913  # what may be asked for
    read: Source,
    recipe_dir: Path,
    name: str,
    written: Mapping[str, Any],
    *,
    task: Task | None = None,
    objective: str | None = None,
    requested_layout: Layout = Layout(),  # noqa: B008 - a tuple
    want: Want | None = None,
    quick: bool = False,
) -> RecipeProposal:
    """Propose a recipe for a source that can be read from `recipe_dir`; `written` is how the recipe names it, and
    `requested_layout` has the prompt and the answer that are asked for; `want` is what the model is for.

    Raises:
        InputError: preferred answers are wanted, and the rows prefer none.
    """
    if want is not None and want != "prefer":
        task = "label" if want == "classify" else "text"
    suggestion = read.suggest_settings(recipe_dir)
    read = read.model_copy(update={**suggestion.settings, **requested_layout.settings})
    if (media := guess_media_folder(read, recipe_dir)) is not None:
        read = read.model_copy(update={"media_folder": media})
        folder = posixpath.join(posixpath.dirname(str(written["path"])), media)
        written = {**written, "media_folder": posixpath.normpath(folder)}
    try:
        profile, choice, _ = survey_source(read, recipe_dir, name, task, quick=quick)
    except DataError:
        if want is None:
            raise
        profile, choice, _ = survey_source(
            read, recipe_dir, name, quick=quick
        )  # no column looks like it: those that there are
    reasons = {f"source.{name}": why for name, why in {**suggestion.reasons, **choice.reasons}.items()}
    values, colon, explanation = reasons.get("source.answer", "").partition(": ")
    if profile.spellings and colon and _SHORT_VALUES in values and "each combination" not in explanation:
        reasons["source.answer"] = f"{values}: {_classes(profile)}"  # with what the texts of the classes show
    chosen: Task = task or ("label" if profile.answers or choice.is_label else "text")
    source: dict[str, Any] = {**written, **suggestion.settings, **choice.settings}
    if profile.broken:
        source["on_error"] = "drop"
        reasons["source.on_error"] = _unread(profile)
    if profile.media:
        _explain_media(profile, source, reasons)
    if chosen == "label" and "system_column" not in source:
        source["system"], reasons["source.system"] = _instruction(profile)
    objective = _wanted_objective(objective or _objective(choice), want)
    want = want or _recognize_want(objective, chosen, profile)
    if want == "extract" and not {"system_column", "system", "messages"} & source.keys():
        source["system"], reasons["source.system"] = _json_instruction(profile)
    examples: dict[str, tuple[ChangeExample, ...]] = {}
    ops = [] if quick else list(_operators(profile, reasons, examples))
    if objective == "dpo":
        ops = [entry for entry in ops if entry["kind"] not in _ONE_SIDED]
    left = _left(profile, ops)
    learn, why = _learn(profile) if (objective, chosen) == ("sft", "text") else ("last", "")
    if why:
        reasons["objective.train_on"] = why
    metrics, rules = (
        (["accuracy"], ["accuracy > base"]) if objective == "dpo" else _measures(profile, chosen, learn, want)
    )
    split, reasons["split.test"] = _split(
        left, gettext_noop("an accuracy" if "accuracy" in metrics else "a score from 0 to 100"), profile
    )
    if any(entry["kind"] == "media_dedup" for entry in ops):
        split["group"] = "cluster"
        reasons["split.group"] = gettext_noop("rows that show or play near copies of one thing stand on one side")
    reasons |= _shortages(profile, left, chosen)
    reasons["task"] = _why_task(profile, choice, chosen)
    return RecipeProposal(
        task=chosen,
        source=source,
        ops=ops,
        split=split,
        reasons=reasons,
        examples=examples,
        metrics=metrics,
        rules=rules,
        objective=objective,
        learn=learn,
        left=left,
        want=want,
        profile=profile,
    )


def _wanted_objective(found: str, want: Want | None) -> str:
    """What is learnt: of rows that prefer answers, the preferred ones alone where those are all that is wanted."""
    if want == "prefer" and found == "sft":
        hint = "give columns prompt, chosen and rejected, or prompt, answer and a verdict of yes or no"
        raise InputError("preferred answers are wanted, and these rows prefer none", hint=hint)
    return found if want in (None, "prefer") else "sft"


def _recognize_want(objective: str, task: Task, profile: SourceProfile) -> Want:
    """What fits the rows."""
    if objective != "sft":
        return "prefer"
    if task == "label":
        return "classify"
    if profile.looked_at and profile.json_answers >= _JSON_FROM * profile.looked_at:
        return "extract"
    return "rewrite" if profile.looked_at and profile.alike_answers >= _ALIKE_FROM * profile.looked_at else "answer"


def _json_instruction(profile: SourceProfile) -> tuple[str, str]:
    """A system turn that says which facts are wanted."""
    keys = f" with the keys {', '.join(profile.json_keys[:_MOST_KEYS])}" if profile.json_keys else ""
    return f"Answer with JSON alone{keys}.", gettext_noop(
        "the same on every row: it tells the base model in which form to answer"
    )


def _objective(choice: LayoutChoice) -> str:
    """What fits the layout that was recognised."""
    reasons_text = " ".join(choice.reasons.values())
    return "dpo" if "preference rows" in reasons_text else "kto" if "KTO rows" in reasons_text else "sft"


def _classes(profile: SourceProfile) -> str:
    """How many classes are left of the answers, once spellings are brought together."""
    return describe_class_count(len(set(profile.answers) - set(profile.spellings)), profile.spellings)


def _learn(profile: SourceProfile) -> tuple[Literal["last", "all"], str]:
    """Which turns of the assistant's are learnt, and why where that is not the last alone."""
    rows = profile.looked_at
    if profile.going_on * 2 > profile.several:
        return "last", gettext_noop(
            f"{format_rows_affected(profile.going_on, rows, 'goes on', 'go on')} from another row: each answer is the "
            "last one of a row of its own"
        )
    if profile.with_tools or profile.called:
        calling = max(profile.with_tools, profile.called)
        return "all", gettext_noop(
            f"{format_rows_affected(calling, rows, 'calls tools or has', 'call tools or have')} them on offer: every "
            "turn of the assistant is trained on, so that calls are; `last` would leave out each call that its result "
            "and an answer follow"
        )
    if profile.several:
        return "all", gettext_noop(
            f"{format_rows_affected(profile.several, rows, 'holds', 'hold')} several answers of the assistant: "
            "every one is trained "
            "on, as TRL (`assistant_only_loss`), axolotl and LLaMA-Factory do; `last` takes one of each row"
        )
    return "last", ""


def _unread(profile: SourceProfile) -> str:
    """What is said of broken rows, with the place of the first."""
    more = f"; {profile.first_remedy}" if profile.first_remedy else ""
    if profile.broken == 1:
        text = gettext_noop(f"one row cannot be read ({profile.first_broken}); it is left out and listed")
    else:
        text = gettext_noop(
            f"{profile.broken} rows cannot be read (the first, {profile.first_broken}); they are left out and listed"
        )
    return f"{text}{more}"


def _instruction(profile: SourceProfile) -> tuple[str, str]:
    """A system turn that says what is wanted."""
    labels = sorted(set(profile.answers) - set(profile.spellings))
    if labels and len(labels) <= _MOST_NAMED_CLASSES:
        text = f"Choose the class of {_shown(profile)}. Answer with one of: {', '.join(labels)}."
        return text, gettext_noop("the same on every row; it is computed once and tells the base model what is wanted")
    return (
        f"Name the class of {_shown(profile)}.",
        gettext_noop(
            "there are too many classes to name them all" if labels else "the file is large: not all classes were seen"
        ),
    )


def _shown(profile: SourceProfile) -> str:
    """What it is that a class is told of."""
    words = {"image": "the picture", "audio": "the sound"}
    return next((words[kind] for kind in profile.media), "the user's message")


def _explain_media(profile: SourceProfile, source: Mapping[str, Any], reasons: dict[str, str]) -> None:
    """Why media are read as they are."""
    words = {"image": "a picture", "audio": "a sound"}
    kinds = " or ".join(words[kind] for kind in profile.media)
    rows = format_rows_affected(max(profile.media.values()), profile.looked_at, "holds", "hold")
    if "media_folder" in source:
        reasons["source.media_folder"] = f"{rows} {kinds}, whose paths start there"
    if source.get("prompt") in MEDIA_NAMES:
        reasons["source.prompt"] = f'{rows} {kinds}; to ask something beside it, write `"{{{source["prompt"]}}} …?"`'


def _operators(
    profile: SourceProfile, reasons: dict[str, str], examples: dict[str, tuple[ChangeExample, ...]]
) -> Iterator[dict[str, Any]]:
    """Every operator that suggests itself, in its order."""
    found = sorted(components_by_kind(Operator).values(), key=lambda member: (member.suggested_at, member.__name__))
    for member in found:
        suggestion = member.suggest(profile)
        if suggestion is not None:
            kind = member.model_fields["kind"].default
            reasons[f"ops.{kind}"] = suggestion.why
            if tried := profile.trials.get(kind):
                marked = suggestion.settings.get("action") == "flag"
                examples[kind] = tuple(map(_marked, tried.examples)) if marked else tried.examples
            yield {"kind": kind, **suggestion.settings}


def _marked(change: ChangeExample) -> ChangeExample:
    """An example of a row that would be dropped, where it is only marked."""
    why = change.after.removeprefix("dropped: ")
    return change if why == change.after else change.model_copy(update={"after": gettext_noop(f"marked: {why}")})


def _left(profile: SourceProfile, ops: Sequence[Mapping[str, Any]]) -> int:
    """About how many rows the operators leave of all, as they do of those that were looked at."""
    dropping = [entry["kind"] for entry in ops if entry.get("action") != "flag" and entry["kind"] in profile.trials]
    gone = sum(sum(profile.trials[kind].dropped.values()) for kind in dropping)
    return max(1, round((profile.rows - profile.broken) * (1 - gone / max(1, profile.looked_at))))


def _split(rows: int, measure: str, profile: SourceProfile) -> tuple[dict[str, Any], str]:
    """Enough held out for an interval that means something, and how much that is."""
    many, few = SHARES
    share = many if rows * many >= _ENOUGH_HELD_OUT else few
    expected_rows = share * profile.looked_at * (1 - profile.broken / max(1, profile.rows))
    found = profile.held_out.get(str(share), expected_rows)
    if expected_rows >= _NO_CHANCE and found < _FAR_FEWER * expected_rows:
        few_rows = format_counted_noun(max(1, round(rows * found / profile.looked_at)), "row")
        return {"test": share}, gettext_noop(
            f"only about {few_rows}: by the same seed the others were left to train on in the data set that they come "
            "from; read the rows of its other splits, too, or set another `seed`, if no model that learnt some of them "
            "is measured on these"
        )
    if rows < _NO_CHANCE:
        return {"test": share}, gettext_noop(
            f"{format_counted_noun(rows, 'row')} may leave none to measure on: give more"
        )
    all_seen = profile.looked_at >= profile.rows - profile.broken  # then it is known which rows the seed holds out
    held = max(1, round(rows * (found / profile.looked_at if all_seen else share)))
    width = 100 * 1.96 * (0.25 / held) ** 0.5
    return {"test": share}, gettext_noop(
        f"about {format_counted_noun(held, 'row')}: {measure} measured on them has a margin of ±{width:.0f} "
        "points or less"
    )


def _shortages(profile: SourceProfile, left: int, task: Task) -> dict[str, str]:
    """What there is too little of: rows, rows of some classes, labels; each with what to do about it."""
    found: dict[str, str] = {}
    if (severity := severity_of_row_count(left)) != "info":
        found["rows"] = gettext_noop(
            f"{format_counted_noun(left, 'row')}: too few to train on; at least {FEWEST_ROWS} are needed and "
            f"{FEW_ROWS} recommended; a run stops before training (`stop_on` of the step `validate`)"
            if severity == "serious"
            else f"{format_counted_noun(left, 'row')}: few to train on; at least {FEWEST_ROWS} are needed and "
            f"{FEW_ROWS} recommended"
        )
    if task != "label":
        return found
    classes = Counter[str]()
    for label, rows in profile.answers.items():
        classes[profile.spellings.get(label, label)] += rows
    small = {label: rows for label, rows in reversed(classes.most_common()) if rows < FEWEST_OF_CLASS}
    if small and len(classes) > 1:
        found["classes"] = (
            f"{describe_small_classes(small, len(classes), FEWEST_OF_CLASS, gettext_noop('rows'))}. {FEW_REMEDY}"
        )
    if profile.unlabeled:
        rows = profile.looked_at
        found["unlabeled"] = gettext_noop(
            f"{format_rows_affected(profile.unlabeled, rows, 'has', 'have')} no label. To give them to "
            "annotators, uncomment the step `unlabeled` in the recipe, run it, and "
            "`luthier export RECIPE:unlabeled --to DIR --format label-studio` (`luthier docs label`)"
        )
    return found


def _why_task(profile: SourceProfile, choice: LayoutChoice, task: Task) -> str:
    other = ""
    if choice.other:
        name, written = choice.other, shlex.quote(choice.other)
        other = "; " + gettext_noop(f"to learn {name!r} instead, begin anew with `--answer {written}`")
    if task == "label":
        count = len(set(profile.answers) - set(profile.spellings))
        if count == 1:
            text = gettext_noop(
                "all rows have the same answer: `luthier run` refuses them until another class is there"
            )
        elif count:
            text = gettext_noop(f"{count} different short answers come again and again")
        else:
            text = gettext_noop("few different short answers come again and again")
    else:
        words = round(profile.answer_words)
        text = gettext_noop(f"answers are free text ({format_counted_noun(words, 'word')} on average)")
    return f"{text}{other}"


def asks_every_turn(profile: SourceProfile, learn: str) -> bool:
    """Whether calls are learnt that only an evaluation of every turn measures."""
    return learn == "all" and profile.called > profile.calling


_MEASURES: Mapping[str, tuple[list[str], list[str]]] = {
    "extract": (["json_field_f1", "json_valid"], ["json_field_f1 > base"]),
    "rewrite": (["chrf", "rougeL"], ["chrf > base"]),
}
"""Metrics and rules of what is measured in one way, whatever the rows look like."""


def _measures(profile: SourceProfile, task: Task, learn: str, want: Want) -> tuple[list[str], list[str]]:
    if task == "label":
        return ["accuracy", "macro_f1"], ["macro_f1 > base"]
    if want in _MEASURES:
        return _MEASURES[want]
    every = asks_every_turn(profile, learn)
    calls, answer_count = (
        (profile.calls_in_all, profile.answers_in_all) if every else (profile.calling, profile.looked_at)
    )
    if calls * 2 >= answer_count and calls:
        return ["tool_calls", "rougeL", "chrf"], ["tool_calls > base"]
    if every:
        return ["rougeL", "chrf", "tool_calls"], ["rougeL > base"]
    if profile.answer_words <= SHORT_ANSWER_WORDS:
        return ["exact_match", "token_f1"], ["token_f1 > base"]
    return ["rougeL", "chrf"], ["rougeL > base"]


_WHY: dict[TraceOutput, str] = {
    "chat": gettext_noop("answers as they were given, or as they were corrected"),
    "pairs": gettext_noop("people said what answers should have been: their words are preferred to the model's"),
    "verdicts": gettext_noop("people said which answers they liked"),
    "labels": gettext_noop("people named the true classes"),
}


def propose_trace_recipe(
    folder: Path,
    shown: str,
    where: str | None,
    makes: TraceOutput | None = None,
    requested_layout: Layout = Layout(),  # noqa: B008 - a tuple
) -> RecipeProposal:
    """Propose a recipe for a folder of traffic, as it stands now; `shown` is how the recipe names the folder."""
    now = datetime.now(UTC).replace(microsecond=0)
    settings: dict[str, Any] = {"where": where, "until": now.isoformat().replace("+00:00", "Z")}
    settings = {name: value for name, value in settings.items() if value is not None}
    found = makes or choose_trace_target(Path(), {**settings, "path": str(folder)})
    read = Traces.model_validate({"kind": "traces", "path": str(folder), "makes": found, **settings})
    written = {"kind": "traces", "path": shown, "makes": found, **settings}
    objective = {"pairs": "dpo", "verdicts": "kto"}.get(found, "sft")
    task: Task | None = "label" if found == "labels" else None
    proposal = propose_recipe_from_source(
        read, Path(), shown, written, task=task, objective=objective, requested_layout=requested_layout
    )
    reasons = {
        "source.makes": _WHY[found],
        "source.until": gettext_noop(
            "traffic goes on: below this moment it stands still, so that the same rows come again"
        ),
    }
    return proposal.model_copy(update={"reasons": {**proposal.reasons, **reasons}})
