"""Personal data found by patterns, checksums and models, and taken out of texts and columns."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from luthier.core.component import BasicMarker, digest_plugin_code
from luthier.core.hashing import digest_of
from luthier.core.messages import gettext_noop
from luthier.core.revision import code_revision
from luthier.core.system.packages import is_installed
from luthier.data.engine.batch import apply_edits
from luthier.data.operator import (
    Column,
    Drop,
    LeftoverPii,
    OperatorResult,
    Reads,
    RedactionSpan,
    RowOperator,
    Suggestion,
    TextEdit,
)
from luthier.data.pii.benchmark import measure_precision_recall, read_labeled_texts
from luthier.data.pii.findings_cache import PiiFindingsCache, Recognise
from luthier.data.pii.redaction import LOCALES, PseudonymGenerator, canonical_pii_value, mask_pii_value
from luthier.data.row import Row
from luthier.pii.detect import find_pii, hide_pii_tags
from luthier.pii.hmac_key import KEY_VARIABLE, HmacKey
from luthier.pii.recognizer import TEXT_PARTS, Recognizer, TextPart
from luthier.pii.recognizers.rampart import Rampart
from luthier.pii.span import (
    ANY,
    HIGH_RISK,
    KINDS,
    NAME_KINDS,
    PATTERN_KINDS,
    PiiKind,
    PiiSpan,
    TextPrescan,
    field_context_of,
)
from luthier.pii.text_marks import compute_text_marks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.artifacts.dataset import PrecisionRecall
    from luthier.data.suggest.profile import SourceProfile

Action = Literal["redact", "mask", "hash", "pseudonymise", "drop", "flag", "keep"]
_KNOWN_TEXTS, _KNOWN_CHARS = 1024, 4096
"""So many texts are remembered at most, and none that is longer."""
_SMALL_DIGITS = 5
_MOST_LOOKS = 8
"""So often at most is looked at what edits have made of a text."""
Fields = list[tuple[str, str, list[PiiSpan]]]
"""The texts of a row: field name, text, and what was found in it."""


class Pii(RowOperator):
    """Find e-mail, phones, cards, IBANs, national ids, IP and MAC addresses, secrets, birth dates, addresses, names.

    Events never hold what was found: a keyed hash stands in its place, so that the same value can be followed without
    being known. The key comes from an environment variable; without it, from a file of yours that is made once. After
    all operators, every row is looked at once more: when a key, a card, an account or a national number is left that no
    action of yours keeps, the recipe fails and says where.
    """

    kind: Literal["pii"] = "pii"
    reads: ClassVar[tuple[Reads, ...]] = ("system", "prompt", "answer", "meta", "group")
    suggested_at: ClassVar[int] = 20
    writes: ClassVar[dict[str, Column]] = dict.fromkeys(KINDS, "count")
    is_private: ClassVar[bool] = True

    action: Annotated[Action, BasicMarker()] = "redact"
    """`redact` puts the kind in its place (`[EMAIL]`), `mask` leaves the last four characters of numbers, `hash` puts a
    tag that is the same wherever the value is the same, `pseudonymise` another value of the same sort that belongs to
    nobody, `drop` leaves the row out, `flag` only counts, `keep` counts and lets the last look pass it."""
    actions: dict[PiiKind, Action] = Field(default_factory=dict)
    """Another action for some kinds, such as `{email: hash, person: pseudonymise}`."""
    kinds: tuple[PiiKind, ...] = PATTERN_KINDS
    """What is looked for by patterns; what a recogniser of names knows comes to it."""
    ner: Recognizer | None = None
    """A model that finds persons and more: `rampart`, `minilm` or `spacy` (`pip install 'luthier[names]'`)."""
    names_in: tuple[TextPart, ...] = TEXT_PARTS
    """Where names are looked for. Leave out `system` and `answer` where answers are classes: a model may take a class
    for a person."""
    consistent: Literal["conversation", "corpus"] = "conversation"
    """How far a pseudonym reaches: within a row the same person is always the same; with `corpus`, in all rows."""
    locale: str = "auto"
    """Whose names pseudonyms are, such as `de_DE`; `auto`: of the row's language."""
    columns: bool = True
    """Look into the columns that stay in `meta`, too, and into what is nested in them."""
    final_check: bool = True
    """Fail when a high-risk kind is left at the end, wherever it came from."""
    labelled: str | None = None
    """A JSONL file of `{"text", "spans": [{"start", "end", "kind"}]}` on which recall and precision are measured."""
    key_env: str = KEY_VARIABLE
    """The environment variable with the secret key for hashes; set the same on all machines to get the same tags."""

    @model_validator(mode="after")
    def _names_can_be_found(self) -> Pii:
        known = self.ner.finds if self.ner else ()
        requested_kinds = {*self.kinds, *self.actions} & {*NAME_KINDS} - {*known}
        if requested_kinds:
            raise ValueError(
                f"{min(requested_kinds)} is found by a recogniser of names; set `ner: rampart` or `ner: spacy`"
            )
        if self.locale != "auto" and self.locale not in LOCALES.values():
            raise ValueError(
                f"there are no names of {self.locale!r}; there are {', '.join(LOCALES.values())}, and auto"
            )
        return self

    _recognise: Recognise | None = PrivateAttr(default=None)
    """Reads names; None: as the recogniser does it where this process works."""

    def at(self, recipe_dir: Path, kept: Path | None = None) -> Pii:
        """The operator as it remembers what a recogniser found, if it has one."""
        if self.ner is None:
            return self
        placed = self.model_copy()
        placed._recognise = self.ner.at(recipe_dir).find_names
        if kept is not None:
            identity = [self.ner.settings(), self.ner.fingerprint(recipe_dir), digest_plugin_code(self.ner)]
            by = digest_of([*identity, code_revision(type(self.ner).__module__)])
            placed._recognise = PiiFindingsCache(kept / "names" / f"{by}.db", self._hmac_key, placed._recognise)
        return placed

    def model_s(self, size: int) -> float:
        """What a recogniser takes."""
        return size * self.ner.seconds_a_byte if self.ner else 0.0

    def paths(self, recipe_dir: Path) -> Iterator[tuple[str, Path]]:
        """The labelled sample."""
        if self.labelled and (path := recipe_dir / self.labelled).is_file():
            yield "labelled", path

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the key, since it decides the tags, and of the labelled sample."""
        sample = (
            (recipe_dir / self.labelled).read_bytes()
            if self.labelled and (recipe_dir / self.labelled).is_file()
            else b""
        )
        return self._hmac_key.fingerprint + (hashlib.sha256(sample).hexdigest()[:16] if sample else "")

    @cached_property
    def _hmac_key(self) -> HmacKey:
        return HmacKey.of(self.key_env)

    @cached_property
    def _wanted(self) -> frozenset[PiiKind]:
        return frozenset((*self.kinds, *(self.ner.finds if self.ner else ())))

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Find, count, and say what becomes of it."""
        counts: dict[str, list[int]] = {kind: [0] * len(rows) for kind in KINDS}
        outcome = OperatorResult(attributes=dict(counts))
        by_field: dict[PiiKind, Counter[str]] = {}
        looks = list(self._looks(rows))
        self._look_again(looks)
        for look in looks:
            for pii_span in look.whole:
                counts[pii_span.kind][look.row_index] += 1
                by_field.setdefault(pii_span.kind, Counter())[_field_label(rows[look.row_index], look.field)] += 1
            if look.edits:
                outcome.edits.setdefault(look.row_index, []).extend(look.edits)
        for index in dict.fromkeys(look.row_index for look in looks):
            if unwanted := [kind for kind in KINDS if counts[kind][index] and self._action(kind) == "drop"]:
                outcome.drops[index] = Drop(f"holds {unwanted[0]}")
        outcome.counts.update({kind: dict(sorted(by_field[kind].items())) for kind in KINDS if kind in by_field})
        return outcome

    def _searched(self, rows: Sequence[Row]) -> Iterator[Fields]:
        """The texts of each row with what is in them."""
        texts = [
            [(name, text, self._recall(name, text)) for name, text in row.everything() if self._is_searched(name, text)]
            for row in rows
        ]
        unknown = [
            (_context(name) + text, self._may_name(row, name))
            for row, fields in zip(rows, texts, strict=True)
            for name, text, known in fields
            if known is None
        ]
        found = iter(self._named([text for text, may_name in unknown if may_name]))
        named = (next(found) if may_name else [] for _, may_name in unknown)
        marked = iter(compute_text_marks([text for text, _ in unknown]))
        for row in texts:
            yield [
                (name, text, _in_field(name, text, self._wanted, next(named), next(marked)) if known is None else known)
                for name, text, known in row
            ]

    def _is_searched(self, name: str, text: str) -> bool:
        if self.ner is None and _is_small_number(text):
            return False
        return self.columns or not _is_column(name)

    def _may_name(self, row: Row, field: str) -> bool:
        """Whether names are looked for in a field of a row."""
        return self.ner is not None and (self.names_in == TEXT_PARTS or _part(row, field) in self.names_in)

    @cached_property
    def _known(self) -> dict[str, list[PiiSpan]]:
        """What stands in texts that an operator before this one has just made: its edits were looked at already."""
        return {}

    def _recall(self, name: str, text: str) -> list[PiiSpan] | None:
        return None if _context(name) else self._known.pop(text, None)

    def _remember(self, text: str, finds: list[PiiSpan]) -> None:
        if self.ner is None and len(text) <= _KNOWN_CHARS:
            if len(self._known) >= _KNOWN_TEXTS:
                self._known.clear()
            self._known[text] = finds

    def _named(self, texts: Sequence[str]) -> list[list[PiiSpan]]:
        if self.ner is None:
            return [[]] * len(texts)
        return (self._recognise or self.ner.find_names)(texts)

    def _action(self, kind: PiiKind) -> Action:
        return self.actions.get(kind, self.action)

    def _looks(self, rows: Sequence[Row]) -> Iterator[_Look]:
        """Texts in which something was found."""
        for index, (row, fields) in enumerate(zip(rows, self._searched(rows), strict=True)):
            if any(finds for _, _, finds in fields):
                stand_ins = self._stand_ins(row)
                yield from (_Look(index, field, text, finds, stand_ins) for field, text, finds in fields if finds)

    def _look_again(self, looks: Sequence[_Look]) -> None:
        """Say what becomes of what was found: what edits bring near to a word that names it is found, too, as the last
        look would."""
        for _ in range(_MOST_LOOKS):
            looks = [look for look in looks if self._edited(look)]
            texts = [_context(look.field) + hide_pii_tags(apply_edits(look.text, look.edits)) for look in looks]
            for look, text, marked in zip(looks, texts, compute_text_marks(texts), strict=True):
                look.finds = list(self._left(look, text.removeprefix(_context(look.field)), marked))

    def _edited(self, look: _Look) -> bool:
        """Whether anything becomes of what was found at last, which is added to all that was."""
        look.whole += look.finds
        text_edits = [edit for find in look.finds if (edit := self._edit(look.field, find, look.stand_ins)) is not None]
        anew = {edit.start for edit in text_edits}
        kept = (edit for edit in look.edits if edit.start not in anew)
        look.edits = sorted([*kept, *text_edits], key=lambda edit: edit.start)
        return bool(text_edits)

    def _left(self, look: _Look, edited: str, marked: TextPrescan) -> Iterator[PiiSpan]:
        """What the last look would find in an edited text, by its place in the text before: around edits, or in what
        one put there that now looks like a key."""
        kinds = tuple(kind for kind in self._risky if kind in self._wanted)
        text, edits = look.text, look.edits
        moved = list(accumulate((len(edit.after) - len(edit.before) for edit in edits), initial=0))
        starts = [edit.start + by for edit, by in zip(edits, moved, strict=False)]
        spans = [(start, start + len(edit.after)) for start, edit in zip(starts, edits, strict=True)]
        for pii_span in _in_field(look.field, edited, kinds, marked=marked):
            around = list(_outside(pii_span, spans))
            for start, end in around:
                by = moved[bisect_right(starts, start)]
                yield pii_span._replace(start=start - by, end=end - by, text=text[start - by : end - by])
            if not around and pii_span.kind in ("secret", "url_secret"):
                within = (
                    edit
                    for edit, (start, end) in zip(edits, spans, strict=True)
                    if pii_span.start < end and start < pii_span.end
                )
                yield from (pii_span._replace(start=edit.start, end=edit.end, text=edit.before) for edit in within)

    def _edit(self, field: str, found: PiiSpan, stand_ins: PseudonymGenerator | None) -> TextEdit | None:
        """What takes the place of one find; a group keeps rows together, so there it is always a tag."""
        action = self._action(found.kind)
        if action in ("flag", "keep", "drop"):
            return None
        tag = self._tag(found)
        if action == "hash" or field == "group":
            after = tag
        elif action == "pseudonymise":
            assert stand_ins is not None
            after = stand_ins.of(found)
        else:
            after = f"[{found.kind.upper()}]" if action == "redact" else mask_pii_value(found)
        return TextEdit(field, found.start, found.end, found.text, after, found.kind, hidden=tag)

    def _stand_ins(self, row: Row) -> PseudonymGenerator | None:
        if "pseudonymise" not in (self.action, *self.actions.values()):
            return None
        scope = row.id if self.consistent == "conversation" else ""
        return PseudonymGenerator(self._hmac_key, scope, self._locale(row), self._tag)

    def _locale(self, row: Row) -> str:
        if self.locale != "auto":
            return self.locale
        from luthier.lang.detect import identify_languages

        return LOCALES.get(identify_languages([row.prompt or row.answer])[0].code, "en_US")

    def _tag(self, found: PiiSpan) -> str:
        return f"[{found.kind.upper()}:{self._hmac_key.tag(canonical_pii_value(found))}]"

    def secrets(self, texts: Sequence[str]) -> list[list[RedactionSpan]]:
        """Everything found in each text, with its tag."""
        found: list[list[RedactionSpan]] = []
        for text, named, marked in zip(texts, self._named(texts), compute_text_marks(texts), strict=True):
            finds = find_pii(text, self._wanted, named, marked)
            self._remember(text, finds)
            found.append([RedactionSpan(find.start, find.end, self._tag(find)) for find in finds])
        return found

    @cached_property
    def _risky(self) -> tuple[PiiKind, ...]:
        """What the last look is for."""
        return tuple(kind for kind in HIGH_RISK if self._action(kind) != "keep")

    def untroubled(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_] | None:
        """Rows in which nothing was found when everything was looked at."""
        if self.final_check and not (self.columns and {*self._risky} <= {*self.kinds}):
            return None
        found: NDArray[np.bool_] = np.logical_and.reduce([counts == 0 for counts in columns.values()])
        return found

    def leftover(self, rows: Sequence[Row]) -> tuple[Row, LeftoverPii] | None:
        """A key, card, account or national number that is left in a row although no action keeps it."""
        everything = ((row, *entry) for row in rows for entry in row.everything()) if self.final_check else ()
        texts = [(row, name, hide_pii_tags(text)) for row, name, text in everything if not _is_small_number(text)]
        marked = compute_text_marks([_context(name) + text for _, name, text in texts])
        for (row, name, text), text_marks in zip(texts, marked, strict=True):
            if pii_spans := _in_field(name, text, self._risky, marked=text_marks):
                kind = pii_spans[0].kind
                hint = f"set `actions: {{{kind}: redact}}` and let pii stand behind what made it, or `keep` it"
                return row, LeftoverPii(name, kind, hint)
        return None

    def prove(self, recipe_dir: Path) -> dict[str, PrecisionRecall]:
        """Recall and precision of each kind on the labelled sample."""
        if self.labelled is None:
            return {}
        sample = read_labeled_texts(recipe_dir, self.labelled)
        named = self._named([pii_text.text for pii_text in sample])
        finds = [find_pii(pii_text.text, self._wanted, names) for pii_text, names in zip(sample, named, strict=True)]
        return measure_precision_recall(sample, finds)

    @classmethod
    def trial(cls) -> Pii:
        """Redaction of everything, so that an example can be shown."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when the sample holds any personal data, or names."""
        if not profile.pii and not profile.holds_names:
            return None
        shown = ", ".join(
            f"{kind} in {rows}" for kind, rows in sorted(profile.pii.items(), key=lambda entry: -entry[1])
        )
        why = [gettext_noop(f"personal data in the {profile.looked_at} rows seen: {shown}")] if shown else []
        if not profile.holds_names:
            return Suggestion({"action": "redact"}, *why)
        settings: dict[str, Any] = {"action": "redact", "ner": {"kind": _PROPOSED.kind, "organizations": False}}
        if profile.answers:  # they are classes, which the system turn lists
            settings["names_in"] = [part for part in TEXT_PARTS if part not in ("system", "answer")]
        return Suggestion(settings, "; ".join([*why, _names_told(profile)]))


_PROPOSED = Rampart(organizations=False)
"""Of the recognisers it finds persons best and takes the least time; organisations are no persons."""


def _names_told(profile: SourceProfile) -> str:
    """Where names stand, what finding them costs, and what becomes of them without it."""
    position_list = ", ".join(f"{position} in {rows}" for position, rows in profile.names.items())
    seconds = max(1, round(1000 * profile.row_bytes * _PROPOSED.seconds_a_byte))
    size = _PROPOSED.download_bytes()
    fetched = f", {size / 1e6:.0f} MB to fetch once" * bool(size)
    missing = [extra for module, extra in _PROPOSED.libraries.items() if not is_installed(module)]
    install = "".join(f", and `pip install 'luthier[{extra}]'`" for extra in missing)
    spared = "; it does not read classes (`names_in`)" * bool(profile.answers)
    more, rows = f"{fetched}{install}{spared}", profile.looked_at
    return gettext_noop(
        f"names of persons in the {rows} rows seen: {position_list}. The model {_PROPOSED.kind} finds them: it takes "
        f"about {seconds} s of one core for 1,000 rows{more}. Without `ner` they stay in clear in the data set, "
        "caches, report, exports and traces"
    )


@dataclass
class _Look:
    """A text in which something was found, and what becomes of it."""

    row_index: int
    """The row's, in its batch."""
    field: str
    text: str
    finds: list[PiiSpan]
    """What was found at last."""
    stand_ins: PseudonymGenerator | None
    whole: list[PiiSpan] = dataclasses.field(default_factory=list)
    """All that was found."""
    edits: list[TextEdit] = dataclasses.field(default_factory=list)


_HANDED = re.compile(r"\Amessages\[\d+\]\.tool_calls/\d+/(?=.)")
"""What stands before the name of something that is handed to a tool."""


def _is_small_number(text: str) -> bool:
    """Whether a text is nothing but a few digits: no kind is so short a number, whatever its column is called."""
    return len(text) <= _SMALL_DIGITS and text.isdecimal()


def _outside(found: PiiSpan, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of a find that lie in none of these spans, which are in order and apart; marks alone are no part."""
    at = found.start
    for start, end in [*spans, (found.end, found.end)]:
        if at < end and start <= found.end:
            part = found.text[at - found.start : start - found.start]
            if any(map(str.isalnum, part)):
                yield at, start
            at = max(at, end)


def _is_column(field: str) -> bool:
    return field.startswith(("meta.", "tools/"))


def _part(row: Row, field: str) -> TextPart:
    """The part of a row to which a field belongs."""
    if field == "group" or _is_column(field):
        return "group" if field == "group" else "meta"
    turn = _turn(field)
    if row.messages[turn].role == "system":
        return "system"
    return "answer" if turn == len(row.messages) - 1 else "prompt"


def _turn(field: str) -> int:
    return int(field[len("messages[") : field.index("]")])


def _field_label(row: Row, field: str) -> str:
    """What a field is called in counts: who speaks, a column without what is nested in it, or the group."""
    if field.startswith("messages["):
        return row.messages[_turn(field)].role
    return field.partition("/")[0]


@lru_cache(maxsize=1024)
def _context(field: str) -> str:
    """The name of a column, or of what is handed to a tool, says what its value is: `phone: 4155550143`."""
    if _is_column(field):
        return field_context_of(field.removeprefix("meta."))
    handed = _HANDED.sub("", field)
    return field_context_of(handed) if handed != field else ""


def _in_field(
    field: str,
    text: str,
    kinds: frozenset[PiiKind] | tuple[PiiKind, ...],
    names: Sequence[PiiSpan] = (),
    marked: TextPrescan = ANY,
) -> list[PiiSpan]:
    """What stands in the text of a field, read together with the column's name."""
    context = _context(field)
    finds = find_pii(context + text, kinds, names, marked)
    if not context:
        return finds
    shift = len(context)
    return [find._replace(start=find.start - shift, end=find.end - shift) for find in finds if find.start >= shift]
