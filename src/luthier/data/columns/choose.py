"""Choose the columns of prompt, answer, id and group from names and values, each with the reason."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun, format_counts_by_name, format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.data.annotation.annotations import detect_class_separator, labels_with_separator
from luthier.data.columns import layouts
from luthier.data.columns.conversations import TurnColumns, parse_message_time
from luthier.data.columns.headers import english_header_words
from luthier.data.columns.layouts import Layout, decide_prompt_and_answer, recognize_layout
from luthier.data.columns.mapping import ColumnTemplate, column_repeated_in_answer, missing_column_error
from luthier.data.columns.media import MEDIA_NAMES
from luthier.data.columns.turns import ROLES
from luthier.data.ops.label_spelling import map_label_variants
from luthier.data.row import UnusableRowError
from luthier.data.suggest.profile import ColumnProfile

_PROMPTS = (
    "message prompt question text utterance query instruction input body content description request email comment "
    "review ticket sentence document article post title subject headline"
)
_REPLIES = "reply response answer completion output resolution solution summary target_text translation"
_VERDICTS = "decision verdict conclusion diagnosis recommendation outcome"
"""What a text answers that is called so, where nothing is called a reply; a few values are classes."""
_CLASSES = (
    "category label intent class topic sentiment target tag type queue department team product priority reason issue "
    "area outcome decision status"
)
_HEADINGS = ("subject", "title", "headline")
_GROUPS = (
    "customer requester user client account author conversation thread session patient contact sender email company"
)
_TICKETS = "ticket case"
"""What rows of one number belong to; such a word names much else that is told of a ticket."""
_HANDLERS = "assignee assigned agent handler handled owner"
_TALKS = "conversation dialogue dialog thread session chat ticket case"
_SPEAKERS = "role speaker sender author from direction"
_SAID = f"{_PROMPTS} value"
_ORDERS = "timestamp datetime time sent created date order sequence seq position index turn step at"
_TIMES = "timestamp datetime time sent created date at"
_GIVEN = "context passage premise hypothesis background facts transcript code snippet option options choice choices"
"""What is given with a question."""
_NOTES = "note notes remark remarks internal action log history handling result code"
"""What is written by who handles a row."""
_GRADES = "stars rating score grade"
"""Numbers that may be classes where nothing else is."""
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b")
_ID = re.compile(r"(?i:(?:^|[_\W])(?:id|key|uuid|guid|ref|number|nr|no)\.?$)|(?i:nummer|nr\.?)$|(?:Id|ID)$|^id(?:$|_)")
_NUMBER = re.compile(r"[^\W\d_]{0,8}[-_#/.]?\d[\w/.-]{0,22}|#\d{1,22}")
_MOSTLY = 0.9
_EMPTY = "n/a #n/a n.a. null nan nil - -- --- – — ? ?? (blank) (empty) (leer) tbd"
"""What people and programs write into a cell that has no value; `none` and `unknown` may be classes."""
_FEWEST_GROUPS = 20
"""Of fewer groups, the share that is held out is far from the one that was asked for."""
_FEWEST_WORDS = 3
"""Columns of fewer on average are no texts."""
_MOST_NAMED = 12
_LARGEST_GROUP = 0.2
"""The same where one of them has a larger share of the rows."""
Task = Literal["label", "text"]
_NOTHING = Layout()


class LayoutChoice(NamedTuple):
    """Mapping settings of a source, the reason for each, and what else could have been."""

    settings: dict[str, Any]
    reasons: dict[str, str]
    is_label: bool = False
    other: str = ""
    """The other column that could be learnt, when there is one."""
    turns: TurnColumns | None = None
    """What gathers the rows, where they are single messages: choose again when that is done."""
    more: tuple[str, ...] = ()
    """Other columns of text, which belong to the prompt unless their rows show that they do not."""
    suspects: tuple[str, ...] = ()
    """Columns that may give the answer away."""
    notes: tuple[str, ...] = ()
    """Those of them which, by name, are written by who handles a row."""


def choose_layout(
    columns: Mapping[str, ColumnProfile],
    rows: Sequence[dict[str, Any]],
    file: str,
    task: Task | None,
    written: Layout | None = None,
    requested_layout: Layout = _NOTHING,
) -> LayoutChoice:
    """The mapping for a file with these columns; `DataError` when no column can be the prompt or the answer.

    `written` is the layout of a source that writes the columns itself, `wanted` what somebody asks for, who knows the
    file: its prompt, its answer, or both.
    """
    if requested_layout != _NOTHING:
        _check_wanted(requested_layout, list(columns), file)
        settings, reasons, other = _spoken(columns, rows, file, task, requested_layout)
        layout_choice = _with_belonging(columns, settings, reasons, other)
        return layout_choice if requested_layout.prompt else _with_other_texts(layout_choice, columns)
    layout = written or recognize_layout(list(columns), rows)
    structured = layout is not None and (
        layout.judged or layout.messages or layout.prompt is None or _holds_turns(layout.prompt, columns)
    )
    if layout is not None and structured and not (layout.judged and task == "label"):
        return _structured(layout, columns)
    if turns := _single_messages(columns, rows):
        return LayoutChoice({}, {}, turns=turns)
    if layout is not None and "{" in (layout.prompt or ""):  # of several columns: none of them may be lost
        return _with_belonging(columns, layout.settings, _recognised(layout), "")
    if (columns_found := _find_text_beside_medium(columns)) is not None:
        medium, text = columns_found
        reasons = {
            "prompt": gettext_noop(f"{medium!r} is what is shown or played"),
            "answer": gettext_noop(f"{text!r} is the only text beside it"),
        }
        return _with_belonging(columns, {"prompt": medium, "answer": text}, reasons, "")
    try:
        settings, reasons, other = _spoken(columns, rows, file, task)
    except DataError as error:
        raise layouts.explain_unsupported_log(rows, file) or error from error
    return _with_other_texts(_with_belonging(columns, settings, reasons, other), columns)


def _find_text_beside_medium(columns: Mapping[str, ColumnProfile]) -> tuple[str, str] | None:
    """A column of pictures or sounds and the only column of text beside it, such as a caption or a transcript."""
    media = [name for name in columns if name in MEDIA_NAMES]
    texts = [name for name, column in columns.items() if name not in media and column.kind == "text"]
    texts = [name for name in texts if not _ID.search(name)]
    return (media[0], texts[0]) if len(media) == len(texts) == 1 and texts[0] != "label" else None


def _with_other_texts(choice: LayoutChoice, columns: Mapping[str, ColumnProfile]) -> LayoutChoice:
    """The choice with the columns that may belong to the prompt, too, and those that may give the answer away."""
    taken = {choice.settings.get("id"), choice.settings.get("group")}
    for field in ("prompt", "answer"):
        taken.update(ColumnTemplate.parse(choice.settings[field], field).columns)
    free = {name: column for name, column in columns.items() if name not in taken and not _ID.search(name)}
    later = [name for name in _ranked(free, _REPLIES) if free[name].kind == "text" and not free[name].is_class]
    if later:
        columns_shown = ", ".join(map(repr, later))
        explanation = gettext_noop(
            f"{columns_shown} is left out: by name written afterwards"
            if len(later) == 1
            else f"{columns_shown} are left out: by name written afterwards"
        )
        choice.reasons["prompt"] += f"; {explanation}"
    given = _ranked(free, f"{_PROMPTS} {_GIVEN}")
    told_of = [
        *later,
        *_ranked(free, f"{_GROUPS} {_HANDLERS} {_TIMES}"),
        *([] if choice.is_label else _ranked(free, _CLASSES)),
    ]
    more = [
        name
        for name, column in free.items()
        if (name in given or name not in told_of) and _may_ask(column) and not column.is_class
        if column.mean_words >= _FEWEST_WORDS or name in _ranked(free, _GIVEN)
        if not all(map(_DATE.match, column.common or ("",)))
    ]
    few = [name for name, column in free.items() if column.is_class] if choice.is_label else []
    suspects = (*few, *(name for name in more if name not in given))
    return choice._replace(more=tuple(more), suspects=suspects, notes=tuple(_ranked(free, _NOTES)))


class UnclearColumns(DataError):
    """No column is clearly the prompt, or the answer; `columns` are those to choose from."""

    def __init__(
        self, message: str, *, where: SourceLocation | None = None, hint: str = "", columns: Iterable[str] = ()
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.columns = tuple(columns)


def _check_wanted(requested_layout: Layout, columns: Sequence[str], file: str) -> None:
    """Raise what is wrong with a prompt or an answer that somebody asks for."""
    for field in ("prompt", "answer"):
        for column in ColumnTemplate.parse(text, field).columns if (text := getattr(requested_layout, field)) else ():
            if column not in columns:
                raise missing_column_error(column, columns, SourceLocation(file=file, field=field))
    if (both := column_repeated_in_answer(requested_layout.prompt, requested_layout.answer)) is not None:
        what = f"{both!r} is named as both prompt and answer, so that a model would learn to repeat it"
        others = ", ".join(entry for entry in columns if entry != both)
        hint = f"name another column for one of them: {others}"
        raise DataError(what, where=SourceLocation(file=file, field="answer"), hint=hint)


def _with_belonging(
    columns: Mapping[str, ColumnProfile], settings: dict[str, str], reasons: dict[str, str], other: str
) -> LayoutChoice:
    """The mapping with what names and groups the rows, and with the values that stand for no class."""
    more: dict[str, Any] = {**_belonging(columns, settings, reasons)}
    answer = columns.get(settings["answer"])
    if answer is None:  # a template: what it makes of the rows tells whether that is classes
        return LayoutChoice({**settings, **more}, reasons)
    if answer.is_class and (empty := _placeholders(answer)):
        value_list = format_counts_by_name({repr(name): rows for name, rows in empty.items()})
        more["null_values"] = list(empty)
        reasons["null_values"] = gettext_noop(f"what stands for no value: {value_list}")
    return LayoutChoice({**settings, **more}, reasons, answer.is_class, other)


def _structured(layout: Layout, columns: Mapping[str, ColumnProfile]) -> LayoutChoice:
    """The mapping for rows that hold their turns themselves; those that Luthier gave out have ids already."""
    if layout.own:  # nothing is set: columns that are named are read as anybody's
        labelled = columns["label"].filled == columns["messages"].filled
        return LayoutChoice({}, {"kind": _recognised_as(layout)}, is_label=labelled)
    settings, reasons = layout.settings, _recognised(layout)
    single = {name: column for name, column in columns.items() if column.kind in ("text", "number")}
    more = _belonging(single, settings, reasons)
    if layout.messages and not layout.judged:
        reasons["messages"] += _classes_instead(columns, {*settings.values(), *more.values()})
    return LayoutChoice({**settings, **more}, reasons)


def _classes_instead(columns: Mapping[str, ColumnProfile], taken: set[str]) -> str:
    """What is said of columns with classes beside the turns, where a text is there that they are told of."""
    free = {name: column for name, column in columns.items() if name not in taken}
    classes = [*_repeated(free), *(name for name, column in free.items() if _is_list_of_classes(column))]
    texts = {
        name: column for name, column in free.items() if name not in classes and column.mean_words >= _FEWEST_WORDS
    }
    if not classes or (prompt := _prompt(texts, ())) is None:
        return ""
    written = json.dumps(prompt[0], ensure_ascii=False) if "{" in prompt[0] else prompt[0]
    how = f"write `prompt: {written}` and `answer: {classes[0]}` in its place, and leave `task` out"
    return f"; to learn a class instead ({', '.join(classes)}), {how}"


def _is_plain_list(column: ColumnProfile) -> bool:
    """Whether it holds lists of names, not of turns."""
    return column.kind == "list" and bool(column.common) and not any("{" in shown for shown in column.common)


def _is_list_of_classes(column: ColumnProfile) -> bool:
    """Whether it is a list of one name that comes again and again, such as a tag."""
    is_class = column.kind == "list" and column.model_copy(update={"kind": "text"}).is_class
    return is_class and not any("{" in shown or ", " in shown for shown in column.common)


def _belonging(
    columns: Mapping[str, ColumnProfile], settings: Mapping[str, str], reasons: dict[str, str]
) -> dict[str, str]:
    """Which columns name rows, and what they belong to."""
    more: dict[str, str] = {}
    if named := _identity(columns, settings):
        more["id"], reasons["id"] = named
    groups = _groups(columns, settings)
    unfit = [_too_few(columns[name]) for name in groups]
    for name in (name for name, why in zip(groups, unfit, strict=True) if not why):
        more["group"], reasons["group"] = name, _why_group(columns[name])
        break
    else:
        if unfit:
            reasons["group"] = f"left out; {unfit[0]}"
    return more


def _recognised(layout: Layout) -> dict[str, str]:
    """Why the columns of a known layout mean what they do."""
    own = {
        "system_column": gettext_noop("each row's system turn"),
        "tools": gettext_noop("the tools on offer; the base model's chat template must have a place for them"),
    }
    return {name: own.get(name, _recognised_as(layout)) for name in layout.settings}


def _recognised_as(layout: Layout) -> str:
    return gettext_noop(f"recognised as {layout.note}")


def _placeholders(column: ColumnProfile) -> dict[str, int]:
    """Values of classes that say that there is none, with their rows; nothing where fewer than two classes are left."""
    found = {name.strip(): rows for name, rows in column.common.items() if name.strip().lower() in _EMPTY.split()}
    return found if column.distinct - len(found) >= 2 else {}


def _too_few(column: ColumnProfile) -> str:
    """Why rows of one value cannot be held out as a whole; empty where they can."""
    if column.distinct < _FEWEST_GROUPS:
        few = f"{column.name} has {column.distinct} different values in {format_counted_noun(column.filled, 'row')}"
        return f"{few}, too few to hold out a share of them as they are"
    name, rows = max(column.common.items(), key=lambda entry: entry[1], default=("", 0))
    if rows > _LARGEST_GROUP * column.filled:
        affected = format_rows_affected(rows, column.filled, "has", "have")
        return f"{affected} {name!r} as {column.name}, too many to stay together"
    return ""


def choose_conversation_layout(turns: TurnColumns, columns: Mapping[str, ColumnProfile]) -> LayoutChoice:
    """The mapping for conversations that were gathered from single messages."""
    settings: dict[str, Any] = {"turns": turns.model_dump(exclude_none=True), "id": turns.conversation}
    order = gettext_noop(f"in the order of {turns.order!r}" if turns.order else "in the order in which they stand")
    if not turns.order and (times := _ranked(columns, _TIMES)):
        order += ": " + gettext_noop(
            f"{times[0]!r} holds what is not read as times; write them as 2026-05-01T10:00:00Z to sort by them"
        )
    reasons = {
        "turns": gettext_noop(
            f"every row is one message; those of one {turns.conversation!r} are one conversation, {order}"
        ),
        "id": gettext_noop("it names the conversation, and `lineage` accepts it"),
    }
    single = {name: column for name, column in columns.items() if column.kind in ("text", "number")}
    groups = _groups(single, {"turns": turns.conversation, "id": turns.conversation})
    if group := next((name for name in groups if not _too_few(columns[name])), None):
        settings["group"], reasons["group"] = group, _why_group(columns[group])
    return LayoutChoice(settings, reasons)


def _single_messages(columns: Mapping[str, ColumnProfile], rows: Sequence[dict[str, Any]]) -> TurnColumns | None:
    """Which columns make conversations of rows that are single messages of them; None where rows are none."""
    talks = [name for name in _ranked(columns, _TALKS) if 1 < columns[name].distinct < columns[name].filled]
    speakers = [name for name in _ranked(columns, _SPEAKERS) if _are_roles(columns[name])]
    speakers = speakers or [name for name, column in columns.items() if _are_roles(column) and _are_two_sides(column)]
    texts = [name for name, column in columns.items() if column.kind == "text" and not column.is_class]
    content_columns = [name for name in _ranked(columns, _SAID) if name in texts and not _ID.search(name)]
    if not (talks and speakers and content_columns):
        return None
    orders = [name for name in _ranked(columns, _ORDERS) if name not in (talks[0], speakers[0], content_columns[0])]
    order = next((name for name in orders if all(_is_moment(row.get(name), name) for row in rows)), None)
    return TurnColumns(conversation=talks[0], role=speakers[0], content=content_columns[0], order=order)


def _is_moment(value: object, column: str) -> bool:
    try:
        parse_message_time(value, column)
    except UnusableRowError:
        return False
    return True


def _are_roles(column: ColumnProfile) -> bool:
    """Whether it says who speaks: by names of roles, but for a few rows that are told as broken."""
    known = sum(rows for name, rows in column.common.items() if name.strip().lower() in ROLES)
    return column.is_class and known >= _MOSTLY * column.filled


def _are_two_sides(column: ColumnProfile) -> bool:
    """Whether its values name those who ask and those who answer, whatever it is called."""
    return {"user", "assistant"} <= {ROLES.get(name.strip().lower()) for name in column.common}


def _holds_turns(column: str | None, columns: Mapping[str, ColumnProfile]) -> bool:
    return column is not None and column in columns and columns[column].kind in ("list", "object")


def _spoken(
    columns: Mapping[str, ColumnProfile],
    rows: Sequence[dict[str, Any]],
    file: str,
    task: Task | None,
    requested_layout: Layout = _NOTHING,
) -> tuple[dict[str, str], dict[str, str], str]:
    """Prompt and answer."""
    prompt_columns = ColumnTemplate.parse(requested_layout.prompt, "prompt").columns if requested_layout.prompt else []
    free = {name: column for name, column in columns.items() if name not in prompt_columns}
    reply, label = _reply(free), _label(free)
    is_guess = label not in _ranked(free, _CLASSES)
    first = reply or label if is_guess else label  # what is called a reply is one; a few values may be anything
    answer = requested_layout.answer or ({"label": label, "text": reply}[task] if task else first)
    why_answer = f"{gettext_noop('as asked for')}; " if requested_layout.answer else ""
    if answer is None and task != "label" and (guess := _guess(free, rows, requested_layout.prompt)):
        settings, why_prompt = {"prompt": guess.prompt, "answer": guess.answer}, guess.why
    elif answer is None:
        raise _no_answer(free, file, task)
    elif requested_layout.prompt:
        settings, why_prompt = {"prompt": requested_layout.prompt, "answer": answer}, "as asked for"
    elif (found := _prompt(columns, {reply, label, *ColumnTemplate.parse(answer, "answer").columns})) is None:
        hint = _name_them(columns)
        what = "no column looks like a question or a text"
        raise UnclearColumns(what, where=SourceLocation(file=file), hint=hint, columns=columns)
    else:
        settings, why_prompt = {"prompt": found[0], "answer": answer}, found[1]
    if (column := columns.get(settings["answer"])) is not None:
        why_answer += _why_answer(column, is_label=column.is_class)
    reasons = {"prompt": why_prompt, "answer": why_answer.removesuffix("; ")}
    return settings, reasons, (reply if answer == label else label if answer == reply else None) or ""


class _Guess(NamedTuple):
    """Two columns that are taken for prompt and answer, and why."""

    prompt: str
    answer: str
    why: str


def _guess(columns: Mapping[str, ColumnProfile], rows: Sequence[dict[str, Any]], prompt: str | None) -> _Guess | None:
    """Prompt and answer where names do not tell them: two texts, or one beside what asks; with the reason."""
    known = _ranked(columns, f"{_PROMPTS} {_GIVEN} {_REPLIES} {_CLASSES} {_GROUPS} {_HANDLERS} {_TIMES}")
    texts = [name for name, column in columns.items() if name not in known and _may_ask(column) and not column.is_class]
    texts = [name for name in texts if not all(map(_DATE.match, columns[name].common or ("",)))]
    asking = [name for name in _ranked(columns, _PROMPTS) if _may_ask(columns[name]) and not columns[name].is_class]
    advice = "; " + gettext_noop("give --prompt and --answer to choose other columns")
    figures = [name for name, column in columns.items() if name not in known and column.kind == "number"]
    other = texts or (figures if len(columns) == 2 else [])
    if len(other) == 1 and (prompt or len(asking) == 1):
        note = gettext_noop(f"{other[0]!r} is the only other {'text' if texts else 'column'}")
        return _Guess(prompt or asking[0], other[0], f"{note}{advice}")
    is_text = len(columns) == 2 or any(columns[name].mean_words >= _FEWEST_WORDS for name in texts)
    if prompt or asking or len(texts) != 2 or not is_text:
        return None
    first, second, why = decide_prompt_and_answer(texts[0], texts[1], rows)
    note = gettext_noop(f"a guess, for their names do not tell: {first!r} asks and {second!r} answers ({why})")
    return _Guess(first, second, f"{note}{advice}")


def _name_them(columns: Mapping[str, ColumnProfile]) -> str:
    """How to say which columns ask and answer."""
    return (
        f"name them by `--prompt` and `--answer` (or in a recipe by `prompt:` and `answer:`), of {', '.join(columns)}"
    )


def _no_answer(columns: Mapping[str, ColumnProfile], file: str, task: Task | None) -> UnclearColumns:
    """Nothing is clearly the answer; what could be is named."""
    target = {"label": "classes", "text": "replies", None: "answers"}[task]
    what = f"no column looks like {target}{_why_no_class(columns) if task != 'text' else ''}"
    hint = _name_them(columns)
    if task != "text" and (several := _repeated(columns)):
        what = f"{len(several)} columns could be the answer: {', '.join(several)}"
        hint = f"choose one, such as `--answer {shlex.quote(several[0])}`; in a recipe, name it by `answer:`"
    elif lists := [name for name, column in columns.items() if _is_plain_list(column)] if task != "text" else []:
        what = f"{what.partition(':')[0]}: {lists[0]!r} holds lists, and one class a row is wanted"
        whole = f'answer "{{{lists[0]}}}"'
        hint += f"; `--{whole}` (`{whole.replace(' ', ': ', 1)}`) learns all of a row together, with commas between"
    return UnclearColumns(what, where=SourceLocation(file=file), hint=hint, columns=columns)


def _why_no_class(columns: Mapping[str, ColumnProfile]) -> str:
    """Why the column that is called after classes holds none; empty where there is no such column."""
    column = next((columns[name] for name in _ranked(columns, _CLASSES) if not _ID.search(name)), None)
    if column is None or column.is_class or not column.filled:
        return ""
    if column.kind in ("list", "object"):
        return f": {column.name!r} holds {column.kind}s, and one class a row is wanted"
    if column.distinct == 1:
        return f": {column.name!r} has the same value in every row, which leaves nothing to tell apart"
    return f": {column.name!r} has {column.distinct} different values in {column.filled} rows, too many to be classes"


def _ranked(columns: Mapping[str, ColumnProfile], names: str) -> list[str]:
    """Columns whose name is, or holds, one of the names, best first."""
    order = names.split()
    found: list[tuple[int, int, str]] = []
    for column in columns:
        words = list(english_header_words(column))
        for index, name in enumerate(order):
            if name in words:
                found.append((index, len(words), column))
                break
    return [column for _, _, column in sorted(found, key=lambda entry: entry[:2])]


def _label(columns: Mapping[str, ColumnProfile]) -> str | None:
    named = [name for name in _ranked(columns, _CLASSES) if columns[name].is_class]
    if named:
        return named[0]
    grades = [name for name in _ranked(columns, _GRADES) if columns[name].is_class][:1]
    truths = [name for name, column in columns.items() if column.is_class and {*column.common} == {"true", "false"}]
    repeated = _repeated(columns) or grades or truths
    return repeated[0] if len(repeated) == 1 else None


def _repeated(columns: Mapping[str, ColumnProfile]) -> list[str]:
    """Columns of few texts that come again and again, and say neither who wrote or answered nor when; headings only
    where there is nothing else."""
    groups = _ranked(columns, f"{_GROUPS} {_HANDLERS}")
    few = [name for name, column in columns.items() if column.is_class and column.kind == "text"]
    found = [name for name in few if name not in groups and not all(map(_DATE.match, columns[name].common))]
    return [name for name in found if not is_heading_column(name)] or found


def _reply(columns: Mapping[str, ColumnProfile]) -> str | None:
    free = {name: column for name, column in columns.items() if not column.is_class and not _ID.search(name)}
    fitting = [name for name in _ranked(free, _REPLIES) if free[name].kind in ("text", "number")]
    fitting += [
        name for name in _ranked(free, _VERDICTS) if _may_ask(free[name]) and free[name].mean_words >= _FEWEST_WORDS
    ]
    return fitting[0] if fitting else None


def _prompt(columns: Mapping[str, ColumnProfile], taken: Iterable[str | None]) -> tuple[str, str] | None:
    """The column, or heading and body together, that is asked."""
    texts = {name: column for name, column in columns.items() if _may_ask(column) and name not in taken}
    named = [name for name in _ranked(texts, _PROMPTS) if not texts[name].is_class]
    headings = [name for name in named if is_heading_column(name)]
    bodies = [name for name in named if name not in headings]
    if headings and bodies:
        return (
            f"{{{headings[0]}}}\n\n{{{bodies[0]}}}",
            gettext_noop(f"{headings[0]!r} and {bodies[0]!r} are combined into the prompt"),
        )
    if named:
        words = round(texts[named[0]].mean_words)
        return named[0], gettext_noop(
            f"chosen because of its column name; {format_counted_noun(words, 'word')} on average"
        )
    longest = max(texts, key=lambda name: texts[name].mean_words, default=None)
    if longest is None:
        return None
    words = round(texts[longest].mean_words)
    return longest, gettext_noop(
        f"chosen because it has the longest text; {format_counted_noun(words, 'word')} on average"
    )


def _may_ask(column: ColumnProfile) -> bool:
    """Whether it holds texts, neither names of rows nor the same one everywhere."""
    return column.kind == "text" and not _ID.search(column.name) and (column.distinct > 1 or column.filled == 1)


def is_heading_column(column: str) -> bool:
    """Whether its name is nothing but that of a heading."""
    return [*english_header_words(column)] in [[name] for name in _HEADINGS]


def _why_answer(column: ColumnProfile, *, is_label: bool) -> str:
    if is_label:
        found = gettext_noop(f"{column.distinct} different short values in {column.filled} rows")
        return f"{found}: {_classes(column)}{_several(column)}"
    words, filled = round(column.mean_words), gettext_noop(f"{format_counted_noun(column.filled, 'row')}")
    return gettext_noop(
        f"free text; {format_counted_noun(words, 'word')} on average, {column.distinct} different in {filled}"
    )


def _classes(column: ColumnProfile) -> str:
    """What the values are: classes, of which some may be spelt in several ways."""
    other = map_label_variants(Counter(column.common))
    return describe_class_count(column.distinct - len(other), other) if other else gettext_noop("classes")


def describe_class_count(number: int, other: Mapping[str, str]) -> str:
    """How many classes there are, and which values look like other spellings of them."""
    (first, meant), *more = sorted(other.items())
    return gettext_noop(
        f"{format_counted_noun(number, 'class', 'classes')}, for {first!r} looks like another spelling of {meant!r}"
        + (f", and {len(more)} more like it" if more else "")
    )


def _several(column: ColumnProfile) -> str:
    """What is said where a cell holds several classes, which come again in other cells."""
    mark = detect_class_separator(column.common, column.distinct)
    if mark is None:
        return ""
    found = labels_with_separator(column.common, mark.text.strip())
    holding, rows, first = sum(column.common[name] for name in found), column.filled, found[0]
    return "; " + gettext_noop(
        f"{format_rows_affected(holding, rows, 'holds', 'hold')} several, such as {first!r}, each combination a class "
        "of its own"
    )


def _identity(columns: Mapping[str, ColumnProfile], settings: Mapping[str, str]) -> tuple[str, str] | None:
    for name, column in columns.items():
        is_name = column.kind in ("text", "number")
        unique = is_name and column.distinct == column.filled > 1 and column.max_chars <= 64
        if unique and (_ID.search(name) or _numbers_tickets(column)) and name not in settings.values():
            return name, gettext_noop("every value differs: it names the row, and `lineage` accepts it")
    return None


def _numbers_tickets(column: ColumnProfile) -> bool:
    """Whether a column is called after tickets and holds what numbers them (`T-1000`), not what they say."""
    return bool(_ranked({column.name: column}, _TICKETS)) and all(map(_NUMBER.fullmatch, column.common or ("",)))


def _groups(columns: Mapping[str, ColumnProfile], settings: Mapping[str, str]) -> list[str]:
    """Columns whose rows belong together, the widest circle first: a customer's, a ticket's."""
    tickets = [name for name in _ranked(columns, _TICKETS) if _ID.search(name)]
    named = dict.fromkeys([*_ranked(columns, _GROUPS), *tickets])
    profiles = (columns[name] for name in named if name not in settings.values())
    free = (profile for profile in profiles if profile.kind in ("text", "number"))
    return [
        column_profile.name
        for column_profile in free
        if 1 < column_profile.distinct < column_profile.filled and column_profile.max_chars <= 128
    ]


def _why_group(column: ColumnProfile) -> str:
    return gettext_noop(
        f"{column.distinct} different values in {column.filled} rows; rows of one {column.name} stay in one split"
    )
