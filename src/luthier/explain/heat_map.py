"""Explanations shown: as lines of a terminal, and as one HTML page; both are legible without colour."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord
from luthier.artifacts.explanation_picture import render_picture_heat

WIDTH = 20
"""Characters of the longest bar."""
SHOWN = 30
"""Units that are listed at most, the strongest."""
SHOWN_PARTS = 5
"""Words or tokens of a unit that are listed at most, the strongest."""
STRONG = 0.5
"""Units with at least this share of the strongest score are marked in the text."""
_TEXT = 60


def format_explanation(record: ExplanationRecord, rival: ExplanationRecord | None = None) -> Iterator[str]:
    """Format an explanation as lines, next to that of another model if given."""
    yield f"{describe_target(record)}, by {record.method} over {len(record.units)} {record.unit}"
    yield f"value {record.value:.4g} with all, {record.without:.4g} without any of them"
    if rival is not None:
        yield f"{rival.model}: {rival.value:.4g} and {rival.without:.4g}; its scores stand second, the change third"
    strongest = max((abs(unit.score) for unit in record.units), default=0.0)
    yield from _marked_lines(record, strongest)
    score = _score_format(strongest)
    numbers = sorted(range(len(record.units)), key=lambda at: -abs(record.units[at].score))[:SHOWN]
    others = _align_scores(record, rival)
    for at in sorted(numbers):
        unit, other = record.units[at], others[at]
        second = "" if other is None else f" {other:{score}} {unit.score - other:{score}}"
        yield f"{unit.score:{score}}{second} {_bar(unit.score, strongest):<{WIDTH}} {_shorten_text(unit)}"
        for part in sorted(unit.parts, key=lambda part: -abs(part.score))[:SHOWN_PARTS]:
            yield f"{'':9}{' ' * len(second)} {part.score:{score}} {_shorten_text(part)}"
    if len(record.units) > SHOWN:
        yield f"  … {len(record.units) - SHOWN} weaker {record.unit} are not listed"
    if record.template is not None:
        yield f"{record.template:{score}} {'':<{WIDTH}} (what the chat template wrote)"
    if record.gap is not None:
        yield f"the scores miss their sum by {record.gap:.2g}"
    if record.faithfulness is not None:
        yield record.faithfulness.sentence
    if record.part_faithfulness is not None:
        yield f"{record.part_unit} and the other units together: {record.part_faithfulness.sentence}"
    yield from (f"note: {note}" for note in record.notes)


def _score_format(strongest: float) -> str:
    """Return the format of scores: three decimals, or enough for two significant digits of the strongest one."""
    if not 0 < strongest < 0.01:
        return "+9.3f"
    decimals = 1 - math.floor(math.log10(strongest))
    return f"+9.{decimals}f" if decimals <= 6 else "+9.1e"


def describe_target(record: ExplanationRecord) -> str:
    """Describe the explained target."""
    target = record.target
    text = target.text if len(target.text) <= _TEXT else f"{target.text[:_TEXT]}…"
    if target.kind == "reward":
        return f"why the reward {record.value:.3g}"
    part = f" (of it {target.part!r})" if target.part else ""
    against = f" and not {target.against!r}" if target.against else ""
    return f"why {text!r}{part}{against}"


def _align_scores(record: ExplanationRecord, rival: ExplanationRecord | None) -> list[float | None]:
    """The other model's score of each unit; None where it has no such unit."""
    known = {_unit_key(unit): unit.score for unit in rival.units} if rival is not None else {}
    return [known.get(_unit_key(unit)) for unit in record.units]


def _unit_key(unit: ExplainedUnit) -> tuple[object, ...]:
    return unit.message, unit.start, unit.end, unit.patch


def _marked_lines(record: ExplanationRecord, strongest: float) -> Iterator[str]:
    """The messages, with the strongest units in brackets with their sign."""
    if record.unit in ("turns", "patches", "seconds"):
        return
    lines: dict[int, list[str]] = {}
    for unit in record.units:
        if unit.patch is not None:
            continue
        text = unit.text
        if strongest and abs(unit.score) >= STRONG * strongest:
            inner = text.strip()
            text = text.replace(inner, f"[{'+' if unit.score > 0 else '-'}{inner}]", 1) if inner else text
        lines.setdefault(unit.message, [f"{unit.role}: "]).append(text)
    for texts in lines.values():
        yield " ".join("".join(texts).split())


def _bar(score: float, strongest: float) -> str:
    count = round(WIDTH * abs(score) / strongest) if strongest else 0
    return ("+" if score > 0 else "-") * count


def _shorten_text(unit: ExplainedUnit) -> str:
    text = " ".join(unit.text.split())
    return f"{text[:_TEXT]}…" if len(text) > _TEXT else text


_STYLE = """body{font:16px/1.7 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111;
background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.5rem}
.unit{border-radius:2px;padding:1px 0;white-space:pre-wrap;border-bottom:0 solid #111}
.for{background:rgba(0,114,178,calc(var(--heat)*.6));border-bottom-style:solid;border-bottom-width:calc(var(--heat)*4px)}
.against{background:rgba(213,94,0,calc(var(--heat)*.6));border-bottom-style:dashed;border-bottom-width:calc(var(--heat)*4px)}
.unit:focus,.part:focus{outline:2px solid #111}
.unit sup{font-size:.65em}
.picture{display:block;max-width:100%;height:auto;margin:.4rem 0}.picture g:focus{outline:3px solid #111}
table{border-collapse:collapse}td,th{padding:.15rem .7rem;text-align:right}td:last-child,th:last-child{text-align:left}
.role{font-weight:600;display:block;margin-top:.6rem}
@media (prefers-color-scheme:dark){body{background:#151515;color:#eee}.unit:focus,.part:focus{outline-color:#eee}
.for,.against{border-bottom-color:#eee}}
@media print{body{max-width:none;color:#000;background:#fff}.unit,.part{background:none;border-bottom-color:#000}
section{break-inside:avoid}details>*{display:block}details::details-content{content-visibility:visible;height:auto}}"""


def render_heat_map(records: Sequence[ExplanationRecord], title: str) -> str:
    """Render one HTML page without scripts: coloured text with signs, underlines and a table for readers without colour
    vision. Each unit is reachable by keyboard, and has its score as text.
    """
    body = "".join(_section(record) for record in records)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>"
        "<p>A solid line below a text speaks for the target, a dashed one against it; the thicker, the more. "
        "The strongest are numbered. On a picture, each patch has its number and a border of the same kind, and on the "
        "waveform of a sound each stretch of time.</p>"
        f"{body}</main></body></html>\n"
    )


def render_heat(record: ExplanationRecord) -> str:
    """The text of a record in heat, as HTML, with its pictures where they stand."""
    strongest = max((abs(unit.score) for unit in record.units), default=0.0) or 1.0
    ranks = {id(unit): rank for rank, unit in enumerate(record.ranked()[:5], start=1)}
    parts: list[str] = []
    message: int | None = None
    picture = -1
    for unit in record.units:
        if unit.message != message:
            message = unit.message
            parts.append(f'<span class="role">{html.escape(unit.role)}</span>')
        if unit.patch is not None:
            if unit.patch.picture != picture:
                picture = unit.patch.picture
                parts.append(render_picture_heat(record, picture))
            continue
        rank = f"<sup>{ranks[id(unit)]}{'+' if unit.score >= 0 else '−'}</sup>" if id(unit) in ranks else ""
        text = "".join(_span(part, "", strongest) for part in unit.parts) or html.escape(unit.text)
        parts.append(_span(unit, rank, strongest, text))
    return "".join(parts)


def _span(unit: ExplainedUnit, rank: str, strongest: float, text: str | None = None) -> str:
    """A unit, or a part of one, that the keyboard reaches and a screen reader reads with its score."""
    says = html.escape(f"{unit.score:+.4g}", quote=True)
    side = "for" if unit.score >= 0 else "against"
    return (
        f'<span class="{"unit" if text is not None else "part"} {side}" tabindex="0" role="mark" '
        f'style="--heat:{min(1.0, abs(unit.score) / strongest):.2f}" title="{says}" '
        f'aria-label="{html.escape(unit.text.strip(), quote=True)}, {says}">'
        f"{html.escape(unit.text) if text is None else text}{rank}</span>"
    )


def _section(record: ExplanationRecord) -> str:
    rows = "".join(
        f"<tr><td>{unit.score:+.4g}</td><td>{html.escape(_shorten_text(unit))}</td></tr>"
        for unit in record.ranked()[:SHOWN]
    )
    facts = [f"value {record.value:.4g} with all units, {record.without:.4g} without any"]
    facts += [] if record.template is None else [f"what the chat template wrote: {record.template:+.4g}"]
    facts += [] if record.faithfulness is None else [record.faithfulness.sentence]
    if record.part_faithfulness is not None:
        facts.append(f"{record.part_unit} and the other units together: {record.part_faithfulness.sentence}")
    facts += record.notes
    says = "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)
    heading = html.escape(f"{record.model}: {describe_target(record)}, by {record.method}")
    return (
        f"<section><h2>{heading}</h2><div>{render_heat(record)}</div>{says}"
        f"<details><summary>Scores</summary><table><thead><tr><th>score</th><th>{record.unit}</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details></section>"
    )
