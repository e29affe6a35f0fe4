"""A file that comes as a form (`multipart/form-data`), straight to the disk: only the piece at hand is held.

python-multipart takes the form apart; Starlette's own form would lay the file down in a folder for temporary files,
which may be memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.message import EmailMessage
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from luthier.serve.openai.protocol import APIError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

    from luthier.commands.jobs.files import IncomingUpload

_FIELD_BYTES = 8192
_HEAD_BYTES = 8192
_FIELDS = 16
_ROOM_EVERY_BYTES = 64 << 20


async def parse_multipart_request(request: Request, incoming: IncomingUpload) -> MultipartForm:
    """Parse a multipart request while it streams, and write its file to the upload folder."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise APIError("expected a form (multipart/form-data) with `file` and `purpose`", status=415)
    form = MultipartForm(incoming)
    incoming.check_room()
    looked = 0
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks)
        async for piece in request.stream():
            parser.write(piece)
            if incoming.bytes - looked > _ROOM_EVERY_BYTES:
                looked = incoming.bytes
                incoming.check_room()
        parser.finalize()
    except FormParserError as error:
        raise APIError(f"the form is broken: {str(error)[:200]}") from error
    return form.checked()


class MultipartForm:
    """The fields of a multipart form, and the upload that its file is written to."""

    def __init__(self, incoming: IncomingUpload) -> None:
        self._incoming = incoming
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._files = 0
        self._ended = False
        self._head: list[tuple[bytes, bytes]] = []
        self._name = self._value = b""
        self._field: str | None = None
        self._text = b""
        self._head_bytes = 0

    @property
    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._finish,
        }

    def checked(self) -> MultipartForm:
        """The form, when it is whole."""
        if not self._ended:
            raise APIError("the form breaks off")
        if not self._files:
            raise APIError("the form has no `file`", param="file")
        return self

    def _part_begin(self) -> None:
        self._head, self._name, self._value, self._head_bytes = [], b"", b"", 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += self._limit_head(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._limit_head(data[start:end])

    def _limit_head(self, piece: bytes) -> bytes:
        self._head_bytes += len(piece)
        if self._head_bytes > _HEAD_BYTES:
            raise APIError("the head of a part of the form is too long")
        return piece

    def _header_end(self) -> None:
        self._head.append((self._name.lower(), self._value))
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        """A field, or the file."""
        _, options = parse_options_header(dict(self._head).get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == "file":
            self._files += 1
            if self._files > 1:
                raise APIError("the form has two files", param="file")
            self.filename, self._field = _file_name(options), None
            return
        if name in self.fields or len(self.fields) >= _FIELDS or not name:
            raise APIError("a field of the form has no name, or comes twice, or there are too many of them")
        self._field, self._text = name[:200], b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._incoming.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD_BYTES:
            raise APIError(f"the field {self._field!r} is too long", param=self._field)

    def _part_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._text.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True


def _file_name(options: Mapping[bytes, bytes]) -> str:
    """The last part of a file's name, as text that can be shown."""
    given = options.get(b"filename")
    if given is None and (extended := options.get(b"filename*")) is not None:
        message = EmailMessage()
        message["Content-Disposition"] = f"attachment; filename*={extended.decode('ascii', 'replace')}"
        filename = message.get_filename() or ""
    else:
        filename = (given or b"").decode("utf-8", "replace")
    plain = "".join(entry for entry in filename.replace("\\", "/").rpartition("/")[2] if entry.isprintable())
    return plain[:255] or "file"
