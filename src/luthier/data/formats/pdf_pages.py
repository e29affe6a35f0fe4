"""Pages of PDF as pictures: rendered by PDFium, each a PNG. Size is bounded before a page is rendered."""

from __future__ import annotations

import io
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from luthier.chat.media_bytes import AGAIN
from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, MissingExtra

MAX_PAGE_PIXELS: Final = 32 << 20
"""Pixels of one page."""
_POINTS = 72.0
"""Points of an inch, in which PDF measures."""
_HEAD = 1024
_LOOKED_AT = 5
"""Pages that tell whether a PDF has text."""


class PageRendering(BaseModel):
    """How pages of PDF become pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    dpi: int = Field(default=150, ge=36, le=600)
    """Pixels an inch: 150 makes A4 1240 x 1754 pixels."""
    max_pages: int = Field(default=8, ge=1, le=256)
    """At most so many pages of a file in one row; a longer file is refused, unless one page is named
    (`scan.pdf#page=3`)."""


def is_pdf(content: bytes) -> bool:
    """Whether bytes begin as PDF does."""
    return content[:_HEAD].lstrip().startswith(b"%PDF-")


def holds_text(content: bytes) -> bool:
    """Whether one of a PDF's first pages has letters or digits, as a scan has not; True for what cannot be told."""
    try:
        import pypdfium2
    except ImportError:
        return True
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError:
        return True
    try:
        texts = (document[at].get_textpage().get_text_range() for at in range(min(_LOOKED_AT, len(document))))
        return any(any(character.isalnum() for character in text) for text in texts)
    except pypdfium2.PdfiumError:
        return True
    finally:
        document.close()


def render_pdf_pages(content: bytes, rendering: PageRendering, page: int | None = None) -> list[bytes]:
    """The pages of a PDF as PNG, in order, or the one with a number (from 1).

    `DataError` for what is broken, locked, has too many pages or a page that is too large.
    """
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingExtra("pages of PDF need pypdfium2", hint="pip install 'luthier[pdf]'") from error
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DataError("the PDF is locked with a password", hint="unlock it, or leave its row out") from error
        raise DataError(f"the PDF cannot be read: {error}", hint=AGAIN) from error
    try:
        return [_render(document, at, rendering) for at in _choose_pages(len(document), rendering, page)]
    finally:
        document.close()


def _choose_pages(count: int, rendering: PageRendering, page: int | None) -> range:
    if count < 1:
        raise DataError("the PDF has no pages", hint=AGAIN)
    if page is not None:
        if not 1 <= page <= count:
            raise DataError(f"the PDF has {count} pages, and page {page} is named", hint="mend the number of the page")
        return range(page - 1, page)
    if count > rendering.max_pages:
        hint = f"raise `pdf: {{max_pages: {count}}}`, or name one page: `scan.pdf#page=1`"
        raise DataError(f"the PDF has {count} pages; at most {rendering.max_pages} are pictures of one row", hint=hint)
    return range(count)


def _render(document: Any, at: int, rendering: PageRendering) -> bytes:
    import pypdfium2

    try:
        page = document[at]
        width, height = page.get_size()
        scale = rendering.dpi / _POINTS
        if not 0 < width * scale * height * scale <= MAX_PAGE_PIXELS:
            pixels = f"{width * scale:.0f} x {height * scale:.0f}"
            what = (
                f"page {at + 1} would have {pixels} pixels at {rendering.dpi} dpi; at most {MAX_PAGE_PIXELS} are made"
            )
            raise DataError(what, hint="set `pdf: {dpi: …}` lower, or leave its row out")
        image = page.render(scale=scale).to_pil().convert("RGB")
    except pypdfium2.PdfiumError as error:
        raise DataError(f"page {at + 1} of the PDF cannot be rendered: {error}", hint=AGAIN) from error
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()
