"""A language model behind an OpenAI-compatible endpoint: each response is cached by a digest of its request, so that
none is paid for twice.

429, 5xx, lost connections and timeouts are retried, each time after twice the wait; everything else fails at once. The
key is read from the environment at each call, and is in no file, message or digest.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.messages import messages_to_openai
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json, digest_of
from luthier.models.lm.base import (
    Ability,
    ChoiceRequest,
    ChoiceResponse,
    GenerateRequest,
    LanguageModel,
    LoglikelihoodRequest,
    Normalize,
    Response,
    RollingLoglikelihoodRequest,
)
from luthier.models.load import ENDPOINT, find_origin_artifact
from luthier.models.sources.endpoint import EndpointModelSource

if TYPE_CHECKING:
    import httpx

    from luthier.chat.messages import Message

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
TOP = 20
"""Number of likeliest first tokens requested: the API's maximum."""
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_AROUND = " \t\r\n\"'`*_.,;:!?()[]"
"""Characters that are ignored around a class's name."""
_NO_ECHO = "leave `echo` out of the model's settings unless its `/v1/completions` has it"


class _Completion(NamedTuple):
    """One response of an endpoint."""

    response: Response
    first: Mapping[str, float]
    """Log-probabilities of the likeliest first tokens; empty when not requested."""


class _Echo(NamedTuple):
    """A text that a server echoed, token by token."""

    logprobs: Sequence[float | None]
    tops: Sequence[Mapping[str, float] | None]
    begin: int | None
    """Number of tokens before the text; None where the text's first token has no probability."""

    def response(self, start: int | None = None) -> Response:
        """Return the log-likelihood of the tokens from `start` on, by default of the whole text; `ModelError` where
        that of its first token is unknown.
        """
        if (start := self.begin if start is None else start) is None:
            what = "the server's tokenizer puts no token before a text, so that its first token has no probability"
            where = SourceLocation(field="model.prefix_token_id")
            raise ModelError(what, where=where, hint="set `prefix_token_id` to the tokenizer's BOS, or else its EOS")
        own = [float(logprob or 0.0) for logprob in self.logprobs[start:]]
        tops = self.tops[start:]
        greedy = len(tops) == len(own) and all(
            entry >= max((top or {"": entry}).values()) for entry, top in zip(own, tops, strict=True)
        )
        return Response(logprob=math.fsum(own), tokens=len(own), is_greedy=greedy)


class EndpointLM(LanguageModel):
    """A model behind one endpoint; finished responses are cached in `kept`, a folder that outlives a killed run, if
    given.
    """

    def __init__(
        self, settings: EndpointModelSource, kept: Path | None = None, before: PromptPrefix | None = None
    ) -> None:
        self.settings, self.before = settings, before or PromptPrefix()
        self.name = settings.model
        plain: tuple[Ability, ...] = (
            ("complete", "loglikelihood_text", "loglikelihood_rolling") if settings.echo else ()
        )
        self.abilities = frozenset({"generate", *plain})
        self._kept = kept

    @classmethod
    def of(cls, artifact: Artifact, kept: Path | None = None) -> EndpointLM:
        """Open the model of an artifact whose base is an endpoint."""
        return cls(read_endpoint(artifact), kept, PromptPrefix.of(artifact))

    @property
    def digest(self) -> str:  # type: ignore[override]  # follows the prompt in front
        """Identifies the address, the request settings, and the prompt prefix."""
        return digest_of([self.settings.settings(), self.before.digest])

    def with_prompt(self, before: PromptPrefix) -> EndpointLM:
        """Return the model with another prompt prefix."""
        return EndpointLM(self.settings, self._kept, before)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """Return the completion of each conversation, or of each plain text where the server supports `echo`."""
        if not requests or not isinstance(requests[0].prompt, str):
            return [completion.response for completion in self._chat([self._body(request) for request in requests])]
        completions = self._request_all([self._body(request) for request in requests], "completions", self._choice)
        return [_read_text(self._choice(entry), entry) for entry in completions]

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """Yield the whole completion at once; it is not cached."""
        return iter([EndpointLM(self.settings, None, self.before).generate([request])[0].text])

    def loglikelihood(self, requests: Sequence[LoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of continuations of plain texts: of the tokens of the whole beyond those of the
        text.
        """
        from luthier.chat.plain_text import move_trailing_space

        parted = [move_trailing_space(self._require_text(request.prompt), request.continuation) for request in requests]
        texts = [text for before, after in parted if before for text in (before, before + after)]
        echoes, alone = (
            self._request_echoes(texts),
            self._echoes_alone([after for before, after in parted if not before]),
        )
        return [
            echoes[before + after].response(len(echoes[before].logprobs)) if before else alone[after].response()
            for before, after in parted
        ]

    def loglikelihood_rolling(self, requests: Sequence[RollingLoglikelihoodRequest]) -> list[Response]:
        """Return the log-likelihood of each text that fits the server's context."""
        echoes = self._echoes_alone([request.text for request in requests if request.text])
        return [
            echoes[request.text].response() if request.text else Response(logprob=0.0, tokens=0) for request in requests
        ]

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """Return the option of each conversation, by its text or by first tokens, whatever `how` is."""
        by_text = self.settings.labels == "text"
        limit, more = (self.settings.label_tokens, {}) if by_text else (1, {"logprobs": True, "top_logprobs": TOP})
        prompts = [GenerateRequest(prompt=choice_request.prompt, max_tokens=limit) for choice_request in requests]
        completions = self._chat([{**self._body(prompt), **more} for prompt in prompts])
        if by_text:
            pairs = zip(completions, requests, strict=True)
            return [
                ChoiceResponse(index=match_option(completion.response.text, request.options))
                for completion, request in pairs
            ]
        return [
            self._choose_option(completion.first, request.options)
            for completion, request in zip(completions, requests, strict=True)
        ]

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the first choice of each response of `/v1/completions`, unchanged; for prompts that are token ids."""
        record = self._request_all(bodies, "completions", self._choice)
        return [self._choice(entry) for entry in record]

    def _require_text(self, prompt: str | tuple[Message, ...]) -> str:
        if not isinstance(prompt, str):
            raise self._build_unsupported_error("give the log-likelihood of an answer to a conversation")
        return prompt

    def _echoes_alone(self, texts: Sequence[str]) -> dict[str, _Echo]:
        """Return each text echoed after one token: `prefix_token_id`, or the tokenizer's own."""
        prefix, bare = self.settings.prefix_token_id, list(dict.fromkeys(texts))
        if prefix is None or not bare:
            return self._request_echoes(bare)
        ids = self._read_back([{"prompt": text, "return_tokens_as_token_ids": True} for text in bare])
        names = [
            [str(name).removeprefix("token_id:") for name in self._choice(id_)["logprobs"]["tokens"]] for id_ in ids
        ]
        if not all(name.isdecimal() for own in names for name in own):
            raise self._build_error("does not name tokens by their ids", "leave `prefix_token_id` out")
        again = self._read_back([{"prompt": [prefix, *map(int, own)]} for own in names])
        return {text: self._parse_echo(entry) for text, entry in zip(bare, again, strict=True)}

    def _read_back(self, prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        settings = {"model": self.settings.model, "max_tokens": 0, "echo": True, "logprobs": 1}
        return self._request_all([{**settings, **prompt} for prompt in prompts], "completions", self._parse_echo)

    def _request_echoes(self, texts: Sequence[str]) -> dict[str, _Echo]:
        """Return each text as the server echoes it; duplicates are requested once."""
        if not self.settings.echo:
            raise self._build_unsupported_error("give the log-likelihood of a text")
        distinct = list(dict.fromkeys(texts))
        answers = self._read_back([{"prompt": entry} for entry in distinct])
        return {text: self._parse_echo(answer, text) for text, answer in zip(distinct, answers, strict=True)}

    def _parse_echo(self, answer: Mapping[str, Any], text: str = "") -> _Echo:
        choice = self._choice(answer)
        columns = choice.get("logprobs") or {}
        tokens, logprobs, tops = (columns.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
        whole = str(choice.get("text") or "").strip().startswith(text.strip())
        if not whole or not logprobs or len(tokens) != len(logprobs) or None in logprobs[1:]:
            raise self._build_error("does not read prompts back with their log-probabilities", _NO_ECHO)
        # a token that the text does not begin with is one that the tokenizer puts before every text
        first = str(tokens[0]).strip()
        own = first and (text.lstrip().startswith(first) or "\ufffd" in first)  # the last: a part of a character
        return _Echo(logprobs, tops, begin=None if text and own else 1)

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        """Return a request in the API's format, without unset fields."""
        if request.continue_final_message or (isinstance(request.prompt, str) and not self.settings.echo):
            raise self._build_unsupported_error("go on with a text")
        more: dict[str, Any] = {"temperature": request.temperature} if self.settings.temperature else {}
        more |= {"top_p": request.top_p} if request.top_p < 1 else {}
        more |= {"stop": list(request.stop)} if request.stop else {}
        more |= {"seed": request.seed} if request.seed is not None else {}
        if isinstance(request.prompt, str):
            return {"model": self.settings.model, "max_tokens": request.max_tokens, **more, "prompt": request.prompt}
        return {
            "model": self.settings.model,
            self.settings.limit: request.max_tokens,
            **more,
            "messages": messages_to_openai(self.before.wrap(request.prompt)),
        }

    def _choice(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        choice = answer.get("choices") or [None]
        if not isinstance(choice, list) or not isinstance(choice[0], dict):
            text = canonical_json(dict(answer))[:120]
            raise self._build_error(f"answered in another form than /v1/completions: {text}", "is it such a server?")
        return choice[0]

    def _choose_option(self, first: Mapping[str, float], options: Sequence[str]) -> ChoiceResponse:
        if not first:
            raise ModelError(
                f"{self.settings.url} gives no logprobs",
                where=SourceLocation(field="model.labels"),
                hint="write `labels: text`",
            )
        scores = score_options_by_first_token(first, options)
        return ChoiceResponse(index=max(range(len(options)), key=scores.__getitem__), scores=scores)

    def _chat(self, bodies: Sequence[dict[str, Any]]) -> list[_Completion]:
        """Return all responses in order."""
        record = self._request_all(
            bodies, "chat/completions", lambda answer: _parse_completion(answer, self.settings.url)
        )
        return [_parse_completion(entry, self.settings.url) for entry in record]

    def _request_all(
        self, bodies: Sequence[dict[str, Any]], path: str, check: Callable[[Mapping[str, Any]], object]
    ) -> list[dict[str, Any]]:
        """Return the responses in order, each distinct request sent once; those received before a failure are kept."""
        if self._kept is None:
            with TemporaryDirectory(prefix="luthier.calls.") as kept:
                return EndpointLM(self.settings, Path(kept))._request_all(bodies, path, check)
        paths = [self._kept / f"{digest_of([self.settings.url, body])}.json" for body in bodies]
        missing = {file_path: body for file_path, body in zip(paths, bodies, strict=True) if not file_path.is_file()}
        if missing:
            with self._connected() as http, ThreadPoolExecutor(self.settings.max_concurrency) as pool:
                waiting = [
                    pool.submit(self._request_one, http, path, file_path, body, check)
                    for file_path, body in missing.items()
                ]
                try:
                    for future in waiting:
                        future.result()
                finally:
                    pool.shutdown(cancel_futures=True)
        return [json.loads(file_path.read_text(encoding="utf-8")) for file_path in paths]

    def _request_one(
        self, http: httpx.Client, path: str, file_path: Path, body: dict[str, Any],
        check: Callable[[Mapping[str, Any]], object],
    ) -> None:  # fmt: skip
        answer = self._call(http, path, body)
        check(answer)
        write_atomically(file_path, canonical_json(answer).encode())

    def _call(self, http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import httpx

        wait, text = FIRST_WAIT_S, ""
        for attempt in range(self.settings.retries + 1):
            request = None
            try:
                response = http.post(path, json=body)
            except httpx.TransportError as error:
                text = f"{type(error).__name__} after {self.settings.timeout_s:g} s at most"
            else:
                if response.status_code == httpx.codes.OK:
                    return self._json(response)
                text = self._refusal(response, echo=bool(body.get("echo")))
                request = response.headers.get("retry-after")
            if attempt < self.settings.retries:
                time.sleep(min(LONGEST_WAIT_S, float(request) if request and request.isdigit() else wait))
                wait *= 2
        hint = "what was answered is kept: run it again to go on; `retries` and `timeout_s` can be raised"
        raise self._build_error(f"no answer after {self.settings.retries + 1} tries: {text}", hint)

    def _refusal(self, response: httpx.Response, *, echo: bool) -> str:
        """Return the server's message; `ModelError` when a retry is useless."""
        code, text = response.status_code, self._hide_key(_parse_error(response.text))
        if code in _AGAIN:
            return f"{code} {text}"
        hint = _NO_ECHO if echo else "look at the model's name and the address"
        if code in (401, 403):
            key = self.settings.key_env
            hint = f"look at the key in ${key}" if key else "the server wants a key: name its variable in `key_env`"
        raise self._build_error(f"answered {code}: {text}", hint)

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            record = response.json()
        except ValueError as error:
            text = self._hide_key(response.text[:80])
            raise self._build_error(f"answered what is no JSON: {text!r}", "is this the address of an API?") from error
        return record if isinstance(record, dict) else {}

    def _build_error(self, what: str, hint: str) -> ModelError:
        return ModelError(f"{self.settings.url} {what}", where=SourceLocation(field="model"), hint=hint)

    def _hide_key(self, text: str) -> str:
        """Return a text without the key, in case the server repeats it."""
        key = os.environ.get(self.settings.key_env or "", "")
        return text.replace(key, "…") if key else text

    def _headers(self) -> dict[str, str]:
        name = self.settings.key_env
        if name is None:
            return {}
        if not (key := os.environ.get(name, "").strip()):
            where, hint = SourceLocation(field="model.key_env"), f"`export {name}=…`, or take `key_env` out"
            raise ModelError(f"the environment variable {name} is not set", where=where, hint=hint)
        return {"Authorization": f"Bearer {key}"}

    def _connected(self) -> httpx.Client:
        import httpx

        url, headers = f"{self.settings.url.rstrip('/')}/", self._headers()
        try:
            return httpx.Client(base_url=url, headers=headers, timeout=self.settings.timeout_s)
        except httpx.InvalidURL as error:
            raise self._build_error(f"is no address: {error}", "as in https://api.openai.com/v1") from error


def read_endpoint(artifact: Artifact) -> EndpointModelSource:
    """Read the endpoint settings of a model artifact."""
    return EndpointModelSource.model_validate(find_origin_artifact(artifact).read_json(ENDPOINT))


def match_option(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a text equals, ignoring case, blanks and punctuation around it; None without
    a match.
    """
    plain = [option.strip(_AROUND).casefold() for option in options]
    message = text.strip(_AROUND).casefold()
    return plain.index(message) if message in plain else None


def score_options_by_first_token(first: Mapping[str, float], options: Sequence[str]) -> list[float]:
    """Return the log-score of each option: the summed probability of first tokens with which only that option begins.

    Options without such a token share the remaining probability evenly, at most the smallest token's probability each.
    """
    plain = [option.strip().casefold() for option in options]
    shares = [0.0] * len(options)
    for token, logprob in first.items():
        started = token.strip().casefold()
        able = [index for index, option in enumerate(plain) if started and option.startswith(started)]
        if len(able) == 1:
            shares[able[0]] += math.exp(logprob)
    left = max(1e-12, 1.0 - sum(math.exp(logprob) for logprob in first.values()))
    rest = min(left / len(options), math.exp(min(first.values())))
    return [math.log(max(share, rest)) for share in shares]


def _parse_completion(answer: Mapping[str, Any], url: str) -> _Completion:
    """Return the first choice of a response; `ModelError` when it is not in the API's format."""
    try:
        choice = answer["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or [{}]
        first = {entry["token"]: float(entry["logprob"]) for entry in content[0].get("top_logprobs", ())}
        response = Response(
            text=choice["message"].get("content") or "",
            finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
            tokens=(answer.get("usage") or {}).get("completion_tokens"),
        )
        return _Completion(response, first)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        what = f"{url} answered in another form than /v1/chat/completions: {canonical_json(dict(answer))[:120]}"
        raise ModelError(
            what, where=SourceLocation(field="model.url"), hint="is it an OpenAI-compatible server?"
        ) from error


def _read_text(choice: Mapping[str, Any], answer: Mapping[str, Any]) -> Response:
    return Response(
        text=str(choice.get("text") or ""),
        finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
        tokens=(answer.get("usage") or {}).get("completion_tokens"),
    )


def _parse_error(text: str) -> str:
    """Return the message in an error's body, or the start of the body."""
    try:
        record = json.loads(text)
        return str(record["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
