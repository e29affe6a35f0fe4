"""OpenAI's `/v1/audio/transcriptions`: a form with a sound, and the answer of a model that transcribes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request

from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.core.errors import LuthierError
from luthier.serve.openai.protocol import APIError, Number, RequestBody, Text, to_api_error
from luthier.serve.openai.responses import validate_body
from luthier.serve.request import AggregatedOutput, EngineRequest, Usage

MOST_BYTES = 25_000_000
"""A sound that is sent, as OpenAI has it."""
_FIELDS = 16
_FORM = "multipart/form-data"


class TranscriptionBody(RequestBody):
    """A sound to be transcribed; sent as a form, with the sound in `file`."""

    absent: ClassVar[frozenset[str]] = frozenset()

    model: Annotated[str, Field(min_length=1, max_length=512)]
    language: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The language that is spoken, by its code (`en`), for a model that knows several."""
    prompt: Text = ""
    """The preceding text, or words as they are spelled: Whisper continues from it."""
    response_format: Literal["json", "text", "verbose_json"] = "json"
    """Format of the transcript; formats with timestamps (`srt`, `vtt`) are not supported."""
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0
    """0 always takes the likeliest token."""

    @field_validator("temperature", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        """A form holds texts alone."""
        try:
            return float(value)
        except (TypeError, ValueError):
            raise APIError(f"expected a number, got {str(value)[:40]!r}", param="temperature") from None

    @field_validator("response_format", mode="before")
    @classmethod
    def _has_times(cls, value: Any) -> Any:
        if value in ("srt", "vtt", "diarized_json"):
            what = f"this server writes no times and no speakers, which {value} needs; use json, text or verbose_json"
            raise APIError(what, param="response_format", code="unsupported_parameter")
        return value

    def query(self, media: Media, content: bytes) -> EngineRequest:
        """The request as engines understand it."""
        words = self.prompt.replace(MEDIA_MARK, "")
        return EngineRequest(
            messages=(Message(role="user", content=f"{words}{MEDIA_MARK}", media=(media,)),),
            media={media.digest: content},
            language=self.language,
            temperature=self.temperature,
        )


class TranscriptionForm:
    """The fields of a form, and the audio file."""

    def __init__(self, body: TranscriptionBody, content: bytes) -> None:
        self.body, self.content = body, content

    def keep(self) -> tuple[Media, bytes]:
        """The sound as a model reads it, and its bytes; `APIError` for a broken one."""
        from luthier.chat.media_codec import keep_media

        try:
            kept = keep_media(self.content)
        except LuthierError as error:
            raise to_api_error(error, "file") from error
        if kept.media.kind != "audio":
            raise APIError("the file is a picture; expected a sound", param="file")
        return kept.media, kept.content


async def read_transcription_form(request: Request) -> tuple[dict[str, str], bytes]:
    """The fields of a form, and the bytes of its `file`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise APIError(f"expected a form of type {_FORM}, got {kind[:80] or 'none'!r}", status=415)
    fields: dict[str, str] = {}
    content: bytes | None = None
    try:
        async with request.form(max_files=1, max_fields=_FIELDS, max_part_size=MOST_BYTES) as form:
            for name, value in form.multi_items():
                if not isinstance(value, str):
                    if name != "file":
                        raise APIError(f"expected the sound in `file`, not in {name[:40]!r}", param="file")
                    content = await value.read()
                elif name in fields:
                    raise APIError(f"the field {name[:40]!r} comes twice", param=name[:40])
                else:
                    fields[name] = value
    except HTTPException as error:
        raise APIError(f"the form cannot be read: {str(error.detail)[:200]}") from error
    if content is None:
        raise APIError("the form has no `file`", param="file")
    return fields, content


def parse_transcription_form(fields: dict[str, str], content: bytes) -> TranscriptionForm:
    """The settings in a form; `APIError` with the one that is wrong."""
    return TranscriptionForm(validate_body(fields, TranscriptionBody), content)


def transcription_json(form: TranscriptionBody, media: Media, answer: AggregatedOutput, usage: Usage) -> dict[str, Any]:
    """A transcript as OpenAI's `json` or `verbose_json`."""
    text = answer.text.strip()
    if form.response_format == "verbose_json":
        seconds = media.seconds or 0.0
        own = {"task": "transcribe", "language": form.language or "", "duration": seconds, "text": text}
        return {**own, "usage": {"type": "duration", "seconds": seconds}}
    counted = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    total = usage.prompt_tokens + usage.completion_tokens
    return {"text": text, "usage": {"type": "tokens", **counted, "total_tokens": total}}
