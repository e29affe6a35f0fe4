"""A picture of an explanation with its patches in heat, or the waveform of a sound with its seconds, as SVG that needs
no style sheet and no address."""

from __future__ import annotations

import html

from luthier.artifacts.explanation import ExplainedUnit, ExplanationRecord

_SIDE = 448.0
"""Units of the drawing on the picture's longer side."""
_COLOURS = {True: "#0072b2", False: "#d55e00"}


def render_picture_heat(record: ExplanationRecord, picture: int) -> str:
    """One picture or waveform as SVG: each patch has its rank among all units and its sign as a number, and a border
    (solid for the target, dashed against it) that is the thicker, the more it speaks; the keyboard reaches each."""
    about = record.pictures[picture]
    scale = _SIDE / max(about.width, about.height)
    width, height = about.width * scale, about.height * scale
    strongest = max((abs(unit.score) for unit in record.units), default=0.0) or 1.0
    patches = [
        _draw_patch(unit, rank, abs(unit.score) / strongest, width, height)
        for rank, unit in enumerate(record.ranked(), start=1)
        if unit.patch is not None and unit.patch.picture == picture
    ]
    patches.reverse()  # the strongest lie above their neighbours
    image = f'<image href="{html.escape(about.url)}" width="{width:.0f}" height="{height:.0f}" ' if about.url else ""
    image += 'preserveAspectRatio="none"/>' if image else ""
    name = f"picture {picture + 1} with {len(patches)} patches"
    if about.seconds is not None:
        name = f"waveform of sound {picture + 1}, {about.seconds:.2f} seconds in {len(patches)} stretches"
    return (
        f'<svg class="picture" role="group" aria-label="{name}" xmlns="http://www.w3.org/2000/svg" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#888"/>{image}{"".join(patches)}</svg>'
    )


def _draw_patch(unit: ExplainedUnit, rank: int, heat: float, width: float, height: float) -> str:
    assert unit.patch is not None, "patches alone are drawn"
    left, right = (max(0.0, min(1.0, share)) * width for share in (unit.patch.left, unit.patch.right))
    top, bottom = (max(0.0, min(1.0, share)) * height for share in (unit.patch.top, unit.patch.bottom))
    says = html.escape(f"{unit.text}: {unit.score:+.4g}, rank {rank}", quote=True)
    stroke, towards = 0.5 + 4 * heat, unit.score >= 0
    inset = stroke / 2
    size = max(7.0, min(18.0, (right - left) / 3, (bottom - top) / 2))
    dashes = "" if towards else ' stroke-dasharray="6 4"'
    return (
        f'<g tabindex="0" role="img" aria-label="{says}"><title>{says}</title>'
        f'<rect x="{left + inset:.1f}" y="{top + inset:.1f}" width="{max(1.0, right - left - stroke):.1f}" '
        f'height="{max(1.0, bottom - top - stroke):.1f}" fill="{_COLOURS[towards]}" fill-opacity="{0.45 * heat:.2f}" '
        f'stroke="#fff" stroke-width="{stroke:.1f}"/>'
        f'<rect x="{left + inset:.1f}" y="{top + inset:.1f}" width="{max(1.0, right - left - stroke):.1f}" '
        f'height="{max(1.0, bottom - top - stroke):.1f}" fill="none" '
        f'stroke="#000" stroke-width="{stroke * 0.7:.1f}"{dashes}/>'
        f'<text x="{(left + right) / 2:.1f}" y="{(top + bottom) / 2:.1f}" font-size="{size:.0f}" font-weight="700" '
        'font-family="sans-serif" text-anchor="middle" dominant-baseline="central" fill="#000" stroke="#fff" '
        f'stroke-width="3" paint-order="stroke">{rank}{"+" if towards else "−"}</text></g>'
    )
