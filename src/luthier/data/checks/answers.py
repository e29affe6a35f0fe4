"""Answers that teach nothing: refusals, cut ends, loops, echoes of the prompt, one answer for everything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from luthier.artifacts.findings import Finding
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.data.check import (
    Check,
    CheckResult,
    Needs,
    PlantedFaults,
    Summed,
    damage_every_nth,
    format_exclude_setting,
    format_percent,
    severity_of_share,
    share_with_interval,
)
from luthier.data.dedup.shingles import normalize_for_comparison
from luthier.data.validate.context import CheckData, CheckRow

REFUSALS = (
    "as an ai language model",
    "as a language model",
    "as an ai assistant",
    "i am an ai",
    "i'm an ai",
    "i cannot assist",
    "i can't assist",
    "i can not assist",
    "i cannot help with",
    "i can't help with",
    "i am unable to",
    "i'm unable to",
    "i am not able to",
    "i'm not able to",
    "i cannot fulfill",
    "i can't fulfill",
    "i cannot comply",
    "i can't comply",
    "i cannot provide",
    "i can't provide",
    "i'm sorry, but i",
    "i am sorry, but i",
    "i apologize, but i",
)
"""Beginnings of refusals, after the strings by which Zou et al. 2023 (arXiv 2307.15043) count them."""
_BEGINNING = 120
"""A refusal stands at the beginning of an answer: what is said later may be a quotation."""
_END = re.compile(r"[.!?…。!?;:)\]}>\"'`»”’*_|~\d]$")
"""The characters that end a complete answer."""
_MANY = 20
"""Prompts that must share an answer before it counts as one answer for everything."""


class AnswerQuality(Check):
    """Free answers that are none: empty, refused, cut off, in circles, an echo of the prompt, one for everything.

    An answer that calls tools is not looked at.
    """

    kind: Literal["answer_quality"] = "answer_quality"
    needs: ClassVar[frozenset[Needs]] = frozenset({"texts"})
    measures: ClassVar[Mapping[str, str]] = {
        "answers.bad": gettext_noop("share of rows with any fault of the answer"),
        "answers.empty": gettext_noop("share of rows without a word in the answer"),
        "answers.refused": gettext_noop("share of rows with a refusal"),
        "answers.cut": gettext_noop("share of rows whose answer stops in the middle of a sentence"),
        "answers.repeated": gettext_noop("share of rows whose answer goes in circles"),
        "answers.echo": gettext_noop("share of rows whose answer repeats the prompt"),
        "answers.stock": gettext_noop("share of rows with one answer that many prompts share"),
    }
    false_alarms: ClassVar[float] = 0.01
    summed: ClassVar[Summed] = "within"

    repeated: float = Field(default=0.5, gt=0, le=1)
    """Share of an answer's runs of four words that came before, from which it goes in circles."""
    echo: float = Field(default=0.9, gt=0, le=1)
    """Share of an answer's words, in order, that the prompt holds, from which it is an echo."""
    stock: float = Field(default=0.05, gt=0, le=1)
    """Share of all rows with the same answer from which it counts as one answer for everything."""
    warning: float = Field(default=0.01, ge=0, le=1)
    """Share of rows from which it is a warning."""
    serious: float = Field(default=0.2, ge=0, le=1)
    """Share of rows from which it is serious."""

    def look(self, data: CheckData) -> Iterable[CheckResult]:
        texts = [row for row in data.rows if not row.messages[-1].tool_calls]
        counts = Counter(normalize_for_comparison(row.answer) for row in texts)
        common = {text for text, count in counts.items() if count >= max(_MANY, self.stock * len(data.rows))}
        ends = sum(bool(_END.search(row.answer.rstrip())) for row in texts) >= 0.8 * len(texts)
        faults = [(row, self._fault(row, common, whole=ends)) for row in texts]
        marks = [(row, None, fault) for row, fault in faults if fault]
        found = Counter(fault for _, fault in faults if fault)
        names = {name.removeprefix("answers."): name for name in self.measures}
        numbers = {
            names[word]: share_with_interval(count, len(data.rows), self.measures[names[word]])
            for word, count in {**{word: found[word] for word in names if word != "bad"}, "bad": len(marks)}.items()
        }
        share = numbers["answers.bad"].value
        parts = ", ".join(f"{count:,} {_WORDS[word]}" for word, count in sorted(found.items()))
        yield CheckResult(
            Finding(
                name=self.kind,
                severity=severity_of_share(share, self.warning, self.serious),
                title=gettext_noop("Answers that teach nothing" if marks else "Answers"),
                sentence=gettext_noop(
                    f"{format_counted_noun(len(marks), 'row')} of {len(data.rows):,} "
                    f"({format_percent(share)}) have an "
                    f"answer that teaches nothing: {parts}."
                    if marks
                    else f"All {len(data.rows):,} answers look whole."
                ),
                rows=len(marks),
                numbers=numbers,
                hint=gettext_noop("Write these answers anew, or leave the rows out by their ids." if marks else ""),
                mend=format_exclude_setting([row for row, _, _ in marks], "poor answer"),
            ),
            marks,
        )

    def _fault(self, row: CheckRow, common: set[str], *, whole: bool) -> str:
        """The first fault of an answer, by its measure's name; empty when there is none."""
        text, words = row.answer.strip(), normalize_for_comparison(row.answer).split()
        if not any(char.isalnum() for char in text):
            return "empty"
        if any(opening in normalize_for_comparison(text[:_BEGINNING]).replace("’", "'") for opening in REFUSALS):
            return "refused"
        if len(words) >= 12 and _again(words) >= self.repeated:
            return "repeated"
        if len(words) >= 4 and _held(words, normalize_for_comparison(row.prompt).split()) >= self.echo:
            return "echo"
        if " ".join(words) in common:
            return "stock"
        return "cut" if whole and len(words) >= 8 and not _END.search(text) else ""

    def plant(self, rows: Sequence[CheckRow]) -> PlantedFaults:
        """Every eighth answer is the same short one, a refusal, an echo, a loop or a cut one."""
        turn = {row.id: index // 8 for index, row in enumerate(rows)}
        poor = (
            "I'm sorry, but I cannot help with that request.",
            "",
            "we will see to it and " * 12,
            "Please open the settings, choose your account, and then press the large but",
        )

        def damage(row: CheckRow) -> CheckRow:
            at = turn[row.id]
            return row.saying(answer="Please wait." if at % 2 else poor[at // 2 % len(poor)] or row.prompt)

        return damage_every_nth(rows, 8, damage)


_WORDS = {
    "empty": gettext_noop("without a word"),
    "refused": gettext_noop("refused"),
    "cut": gettext_noop("cut off"),
    "repeated": gettext_noop("going in circles"),
    "echo": gettext_noop("echoing the prompt"),
    "stock": gettext_noop("the same for many prompts"),
}


def _again(words: Sequence[str]) -> float:
    """Share of the runs of four words that came before in the same text."""
    runs = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    return 1 - len(set(runs)) / len(runs)


def _held(words: Sequence[str], prompt: Sequence[str]) -> float:
    """Return the share of an answer's word bigrams that occur in the prompt."""
    pairs = set(pairwise(prompt))
    mine = list(pairwise(words))
    return sum(pair in pairs for pair in mine) / len(mine)
