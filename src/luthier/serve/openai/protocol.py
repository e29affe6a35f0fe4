"""Request bodies and errors of the OpenAI API.

A parameter is applied or refused by name; none is ignored. A parameter with a value that changes nothing
(`frequency_penalty: 0`) is accepted, since clients send such values, and refused with any other value. `null` equals
absence. A model that chooses among classes accepts sampling parameters with any value: they have no effect there, and
the response says so.

An error has an HTTP status, a type, a code and the parameter that caused it:

InputError
└── APIError           400 invalid_request_error: the request is wrong, and `param` says where
    ├── Busy           429: too many requests wait, or the key exceeds its rate; `retry_after_s` says when to retry
    ├── Late           504: the response was not complete in time
    └── Unavailable    503: the model cannot answer now (it is closing, or a dependency is unavailable)
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from luthier.chat.messages import MEDIA_MARK, Message, ToolCall
from luthier.core.component import add_field_descriptions
from luthier.core.errors import InputError, LuthierError, SourceLocation
from luthier.serve.request import EngineRequest, ToolOptions

if TYPE_CHECKING:
    from luthier.chat.media_codec import KeptMedia


class APIError(InputError):
    """An error response of the API, with status, code and parameter."""

    status: int = 400
    type: ClassVar[str] = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, where=SourceLocation(field=param))
        self.param, self.code = param, code
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        return {}


class ServerBusyError(APIError):
    """The server has too many requests in progress."""

    type: ClassVar[str] = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", status=429)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After."""
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


class AnswerTimeoutError(APIError):
    """The time that an answer may take is over."""

    type: ClassVar[str] = "timeout_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, code="deadline_exceeded", status=504)


class ModelUnavailableError(APIError):
    """The model cannot answer at this moment."""

    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, status: int = 503) -> None:
        super().__init__(message, code="unavailable", status=status)


def to_api_error(error: LuthierError, param: str | None = None) -> APIError:
    """Convert an error to the API's form, without contents of this machine's files."""
    if isinstance(error, APIError):
        return error
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    return APIError(message, param=param or error.where.field)


MOST_ANSWERS = 16
MOST_TEXTS = 256
"""Prompts in one request for completions, or texts in one for embeddings."""
MOST_TOOLS = 128
MOST_MEDIA = 16
"""Pictures and sounds in one request."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "suffix": ("",),
    "best_of": (1,),
    "verbosity": (),
    "reasoning_effort": (),
    "prediction": (),
    "audio": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "top_k": (-1, 0),
    "min_p": (0, 0.0),
    "repetition_penalty": (1, 1.0),
}
"""Parameters of OpenAI and vLLM that this server does not have, and the values at which they ask for nothing."""
_SAMPLING = ("frequency_penalty", "presence_penalty", "logit_bias", "top_k", "min_p", "repetition_penalty")
"""Sampling parameters among them."""


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "expected a number, got {value}", {"value": str(value).lower()})
    return value


WholeNumber = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_no_flag)]
Text = Annotated[str, Field(max_length=2_000_000)]


class RequestBody(BaseModel):
    """A request's body."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    absent: ClassVar[frozenset[str]] = frozenset()
    """Parameters of OpenAI or vLLM that this server does not support."""

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, data: Any) -> Any:
        """Remove parameters with values that change nothing; refuse unsupported ones, by name."""
        if not isinstance(data, dict):
            return data
        kept = {name: value for name, value in data.items() if value is not None or name not in cls.model_fields}
        for name in list(kept):
            if name in cls.absent and (kept[name] is None or kept[name] in _NEUTRAL[name]):
                del kept[name]
            elif name not in cls.model_fields:
                raise unsupported_parameter_error(name)
        return kept


_CODE = "unsupported_parameter"


def unsupported_parameter_error(name: str) -> APIError:
    """Build the error for an unsupported parameter."""
    return APIError(f"this server has no parameter {name!r}" + _instead(name), param=name, code=_CODE)


def _instead(name: str) -> str:
    replacements = {"functions": "tools", "function_call": "tool_choice", "best_of": "n"}
    return f"; use {replacements[name]!r}" if name in replacements else ""


class ContentPartBody(RequestBody):
    """One content part of a message."""

    type: str
    text: Text | None = None
    content: bytes | None = None
    """The bytes of a picture or a sound."""

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind in ("text", "refusal"):
            return {"type": "text", "text": data.get("text", data.get("refusal"))}
        if kind not in ("image_url", "input_audio"):
            what = f"content of type {str(kind)[:40]!r} cannot be read: text, image_url and input_audio can"
            raise APIError(what, param="messages")
        return {"type": kind, "content": _read_media_part(kind, data.get(kind))}


_DATA_URL = re.compile(r"data:(image|audio)/[a-zA-Z0-9.+-]{1,40};base64,")


def _read_media_part(kind: str, value: Any) -> bytes:
    """The bytes of OpenAI's `image_url` (a data: URL) or `input_audio` (base64)."""
    if kind == "image_url":
        address = value.get("url") if isinstance(value, dict) else value
        url = address if isinstance(address, str) else ""
        begin = _DATA_URL.match(url)
        if begin is None:
            what = "pictures are not fetched from addresses: send `data:image/png;base64,...`"
            raise APIError(what, param="messages", code="unsupported_parameter")
        data: Any = url[begin.end() :]
    else:
        data = value.get("data") if isinstance(value, dict) else None
    try:
        return base64.b64decode(data, validate=True)
    except (TypeError, ValueError):
        raise APIError(f"the data of a part of type {kind} are no base64", param="messages") from None


class FunctionCall(RequestBody):
    """The function that a call names."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: Text


class ToolCallBody(RequestBody):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall

    def as_call(self) -> ToolCall:
        """Convert to Luthier's tool call."""
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise APIError("the arguments of a call are no JSON object", param="messages")
        return ToolCall(name=self.function.name, arguments=arguments, id=self.id)


class MessageBody(RequestBody):
    """A message of the conversation."""

    absent: ClassVar[frozenset[str]] = frozenset({"function_call", "audio"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPartBody] | None = None
    name: str | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None

    def as_message(self) -> Message:
        """Convert to Luthier's message; a developer message becomes a system message."""
        if self.content is None and not self.tool_calls and not self.refusal:
            raise APIError(f"a message of the {self.role} has no content", param="messages")
        if self.tool_calls and self.role != "assistant":
            raise APIError(f"only the assistant makes calls, not the {self.role}", param="messages")
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=self._text(),
            media=tuple(kept.media for kept in self.media),
            name=self.name,
            tool_calls=tuple(call.as_call() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
        )

    @property
    def media_parts(self) -> list[bytes]:
        """The bytes of its pictures and sounds, as they were sent."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.content for part in parts if part.content is not None]

    @cached_property
    def media(self) -> list[KeptMedia]:
        """Its pictures and sounds as a model reads them; `APIError` for a broken one."""
        if not self.media_parts:
            return []
        from luthier.chat.media_codec import keep_media

        if self.role != "user":
            raise APIError(f"only the user shows and plays something, not the {self.role}", param="messages")
        try:
            return [keep_media(content) for content in self.media_parts]
        except LuthierError as error:
            raise to_api_error(error, "messages") from error

    def _text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or self.refusal or ""
        texts = [part.text or "" if part.content is None else MEDIA_MARK for part in self.content]
        if not self.media_parts:
            return "".join(texts)
        return "".join(
            text if part.content is not None else text.replace(MEDIA_MARK, "")  # a mark that somebody typed is no place
            for part, text in zip(self.content, texts, strict=True)
        )


class FunctionBody(RequestBody):
    """A function on offer."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(RequestBody):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionBody


class FunctionNameBody(RequestBody):
    """The name of a function."""

    name: str


class ToolChoiceBody(RequestBody):
    """A function that must be called."""

    type: Literal["function"]
    function: FunctionNameBody


class JsonSchemaBody(RequestBody):
    """A JSON schema with its name."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, data: Any) -> Any:
        return data


class ResponseFormat(RequestBody):
    """The form that an answer takes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaBody | None = None

    def as_schema(self) -> Mapping[str, Any] | None:
        """The schema that an answer keeps."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise APIError("a format of type 'json_schema' needs `json_schema`", param="response_format")
        return self.json_schema.schema_ or {"type": "object"}


class StreamOptions(RequestBody):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False

    @model_validator(mode="after")
    def _no_noise(self) -> StreamOptions:
        if self.include_obfuscation:
            raise APIError("streams are not obfuscated", param="stream_options", code=_CODE)
        return self


class _Asking(RequestBody):
    """Parameters of chats and completions."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    """The model's name, as `/v1/models` lists it."""
    n: Annotated[WholeNumber, Field(ge=1, le=MOST_ANSWERS)] = 1
    """Number of answers."""
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    """0 always takes the likeliest token; where none is given, the engine's `temperature`."""
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[WholeNumber, Field(ge=-(2**63), lt=2**63)] | None = None
    """Requests with equal contents and seed have equal answers."""
    stop: (
        Annotated[str, Field(min_length=1, max_length=256)]
        | list[Annotated[str, Field(min_length=1, max_length=256)]]
        | None
    ) = None
    """At most four texts before which an answer ends."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    """The user, as the application names them; it determines the variant of a release."""
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = {}
    """At most 16 texts that are kept with the request's trace."""

    @model_validator(mode="after")
    def _together(self) -> _Asking:
        if isinstance(self.stop, list) and not 1 <= len(self.stop) <= 4:
            raise APIError("expected one to four stop texts", param="stop")
        if self.stream_options is not None and not self.stream:
            raise APIError("stream_options go with `stream: true` only", param="stream_options")
        if len(self.metadata) > 16 or any(len(key) > 64 for key in self.metadata):
            raise APIError("expected at most 16 entries with keys of at most 64 characters", param="metadata")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequestBody(_Asking):
    """A conversation to be answered."""

    absent: ClassVar[frozenset[str]] = frozenset(_NEUTRAL) - {"suffix", "best_of"}

    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=2048)]
    max_tokens: Annotated[WholeNumber, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[WholeNumber, Field(ge=1)] | None = None
    """Longest answer, in tokens; `max_tokens` is its older name."""
    logprobs: bool = False
    top_logprobs: Annotated[WholeNumber, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolBody], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceBody | None = None
    parallel_tool_calls: bool = True
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    """Newer name of `user`."""
    store: bool = True
    """Whether the request may be used for training, as in OpenAI's API."""
    label_set: bool = False
    """Whether each choice of a model that names a class carries `label_set`: the labels that the answer may be, from
    thresholds that a step `conformal` calibrated. Refused where the model has none."""
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    """Taken by models that choose among classes, where it changes nothing; models that write text refuse it, and the
    five that follow."""
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Number] | None = None
    top_k: WholeNumber | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = None

    def count_media(self) -> int:
        """Return the number of images and audio clips."""
        return sum(len(turn.media_parts) for turn in self.messages)

    def query(self) -> EngineRequest:
        """The request as engines understand it."""
        if (media := self.count_media()) > MOST_MEDIA:
            raise APIError(f"expected at most {MOST_MEDIA} pictures and sounds, got {media}", param="messages")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise APIError("max_tokens is the older name of max_completion_tokens: give one", param="max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise APIError("top_logprobs go with `logprobs: true` only", param="top_logprobs")
        tools, schema = self._tools(), self.response_format.as_schema() if self.response_format else None
        if schema is not None and tools is not None:
            raise APIError("tools and a JSON format do not go together", param="response_format", code=_CODE)
        return EngineRequest(
            messages=tuple(turn.as_message() for turn in self.messages),
            media={kept.media.digest: kept.content for turn in self.messages for kept in turn.media},
            tools=tools,
            schema=schema,
            answers=self.n,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=self.stops,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs or 0,
            label_set=self.label_set,
            unsupported=tuple(name for name in _SAMPLING if getattr(self, name) is not None),
        )

    def _tools(self) -> ToolOptions | None:
        offered = tuple(
            offer.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for offer in self.tools or ()
        )
        names = [offer["function"]["name"] for offer in offered]
        if len(set(names)) < len(names):
            raise APIError("two tools have one name", param="tools")
        if self.tool_choice is not None and not offered:
            raise APIError("tool_choice goes with `tools` only", param="tool_choice")
        if not offered or self.tool_choice == "none":
            return None
        if isinstance(self.tool_choice, ToolChoiceBody):
            named = self.tool_choice.function.name
            offered = tuple(offer for offer in offered if offer["function"]["name"] == named)
            if not offered:
                raise APIError(f"no tool on offer is named {named[:80]!r}", param="tool_choice")
            return ToolOptions(offered=offered, choice="required", parallel=False)
        choice: Literal["auto", "required"] = "required" if self.tool_choice == "required" else "auto"
        return ToolOptions(offered=offered, choice=choice, parallel=self.parallel_tool_calls)


class CompletionRequestBody(_Asking):
    """A plain text to be continued."""

    absent: ClassVar[frozenset[str]] = frozenset(
        {"frequency_penalty", "presence_penalty", "logit_bias", "suffix", "best_of"}
    )

    prompt: Text | list[Text] | list[WholeNumber] | list[list[WholeNumber]]
    max_tokens: Annotated[WholeNumber, Field(ge=0)] | None = None
    """Longest answer; 16 where none is given, as OpenAI has it. 0 goes with `echo` only."""
    echo: bool = False
    """Whether each answer begins with its prompt, whose tokens `logprobs` then includes."""
    logprobs: Annotated[WholeNumber, Field(ge=0, le=5)] | None = None
    return_tokens_as_token_ids: bool = False
    """Whether `logprobs` names tokens by id (`token_id:7`), the end token included, as in vLLM."""

    def queries(self) -> list[EngineRequest]:
        """Return one request for each prompt."""
        if self.max_tokens == 0 and not self.echo:
            raise APIError("nothing is asked: `max_tokens: 0` goes with `echo: true` only", param="max_tokens")
        return [
            EngineRequest(
                text=prompt,
                answers=self.n,
                max_tokens=16 if self.max_tokens is None else self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed,
                stop=self.stops,
                logprobs=self.logprobs is not None,
                top_logprobs=self.logprobs or 0,
                echo=self.echo,
                by_id=self.return_tokens_as_token_ids,
            )
            for prompt in self._prompts()
        ]

    def _prompts(self) -> list[str | tuple[int, ...]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise APIError("the list of prompts is empty", param="prompt")
        if all(isinstance(entry, int) for entry in self.prompt):
            return [tuple(entry for entry in self.prompt if isinstance(entry, int))]
        if len(self.prompt) * self.n > MOST_ANSWERS:
            raise APIError(f"expected at most {MOST_ANSWERS} answers in all (prompts times n)", param="prompt")
        found = [
            entry if isinstance(entry, str) else tuple(entry) for entry in self.prompt if not isinstance(entry, int)
        ]
        if () in found:
            raise APIError("a list of tokens is empty", param="prompt")
        return found


class EmbeddingsBody(RequestBody):
    """Texts of which points are wanted."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[WholeNumber, Field(ge=1)] | None = None
    """Only the model's own number can be had."""
    user: Annotated[str, Field(max_length=512)] | None = None

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return [self.input] if isinstance(self.input, str) else self.input
