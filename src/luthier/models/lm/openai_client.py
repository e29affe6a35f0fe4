"""A language model behind an OpenAI-compatible endpoint: each answer is kept by a digest of its request, so that none
is paid for twice.

429, 5xx, lost connections and timeouts are tried again, each time after twice the wait; all else is said at once.
The key is read from the environment at the moment of the call, and is in no file, no message and no digest.
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
from luthier.models.lm.base import Ability, ChoiceRequest, ChoiceResponse, GenerateRequest, LanguageModel, Response
from luthier.models.load import ENDPOINT, find_origin_artifact
from luthier.models.options import Normalize
from luthier.models.sources.endpoint import EndpointModelSource

if TYPE_CHECKING:
    import httpx

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
TOP = 20
"""Likeliest first tokens that are asked for: the most that the API gives."""
_AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_AROUND = " \t\r\n\"'`*_.,;:!?()[]"
"""What is left out of account around a class's name."""


class _Completion(NamedTuple):
    """One answer of an endpoint."""

    response: Response
    first: Mapping[str, float]
    """Log-probabilities of the likeliest first tokens; empty when they were not asked for."""


class EndpointLM(LanguageModel):
    """Asks one endpoint; finished answers are kept in `kept`, a folder that outlives a killed run, if there is one."""

    abilities: frozenset[Ability] = frozenset({"generate"})

    def __init__(
        self, settings: EndpointModelSource, kept: Path | None = None, before: PromptPrefix | None = None
    ) -> None:
        self.settings, self.before = settings, before or PromptPrefix()
        self.name = settings.model
        self._kept = kept

    @classmethod
    def of(cls, artifact: Artifact, kept: Path | None = None) -> EndpointLM:
        """The model of an artifact whose base is an endpoint."""
        return cls(read_endpoint(artifact), kept, PromptPrefix.of(artifact))

    @property
    def digest(self) -> str:  # type: ignore[override]  # follows the prompt in front
        """Names the address, how it is asked, and the prompt in front."""
        return digest_of([self.settings.settings(), self.before.digest])

    def with_prompt(self, before: PromptPrefix) -> EndpointLM:
        """The same model with another prompt in front."""
        return EndpointLM(self.settings, self._kept, before)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """The completion of each conversation, several calls at a time."""
        return [one.response for one in self._chat([self._body(one) for one in requests])]

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """The whole completion at once; it is not kept."""
        return iter([EndpointLM(self.settings, None, self.before).generate([request])[0].text])

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalize = "sum") -> list[ChoiceResponse]:
        """Which option each conversation is answered with, by its text or by first tokens, whatever `how` says."""
        by_text = self.settings.labels == "text"
        limit, more = (self.settings.label_tokens, {}) if by_text else (1, {"logprobs": True, "top_logprobs": TOP})
        prompts = [GenerateRequest(prompt=one.prompt, max_tokens=limit) for one in requests]
        found = self._chat([{**self._body(one), **more} for one in prompts])
        if by_text:
            pairs = zip(found, requests, strict=True)
            return [ChoiceResponse(index=match_option(one.response.text, request.options)) for one, request in pairs]
        return [self._likeliest(one.first, request.options) for one, request in zip(found, requests, strict=True)]

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first choice of each answer of `/v1/completions`, as it came; for prompts that are token ids."""
        record = self._told(bodies, "completions", self._choice)
        return [self._choice(one) for one in record]

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        """A request in the API's form; what is not asked for is left out."""
        if isinstance(request.prompt, str) or request.continue_final_message:
            raise self._unable("go on with a text")
        more: dict[str, Any] = {"temperature": request.temperature} if self.settings.temperature else {}
        more |= {"top_p": request.top_p} if request.top_p < 1 else {}
        more |= {"stop": list(request.stop)} if request.stop else {}
        more |= {"seed": request.seed} if request.seed is not None else {}
        return {
            "model": self.settings.model,
            self.settings.limit: request.max_tokens,
            **more,
            "messages": messages_to_openai(self.before.wrap(request.prompt)),
        }

    def _choice(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        found = answer.get("choices") or [None]
        if not isinstance(found, list) or not isinstance(found[0], dict):
            text = canonical_json(dict(answer))[:120]
            raise self._wrong(f"answered in another form than /v1/completions: {text}", "is it such a server?")
        return found[0]

    def _likeliest(self, first: Mapping[str, float], options: Sequence[str]) -> ChoiceResponse:
        if not first:
            raise ModelError(
                f"{self.settings.url} gives no logprobs",
                where=SourceLocation(field="model.labels"),
                hint="write `labels: text`",
            )
        scores = score_options_by_first_token(first, options)
        return ChoiceResponse(index=max(range(len(options)), key=scores.__getitem__), scores=scores)

    def _chat(self, bodies: Sequence[dict[str, Any]]) -> list[_Completion]:
        """All answers in order."""
        record = self._told(bodies, "chat/completions", lambda answer: _read(answer, self.settings.url))
        return [_read(one, self.settings.url) for one in record]

    def _told(
        self, bodies: Sequence[dict[str, Any]], path: str, check: Callable[[Mapping[str, Any]], object]
    ) -> list[dict[str, Any]]:
        """What was answered, in order, each request sent once; those that came before a failure are kept."""
        if self._kept is None:
            with TemporaryDirectory(prefix="luthier.calls.") as kept:
                return EndpointLM(self.settings, Path(kept))._told(bodies, path, check)
        paths = [self._kept / f"{digest_of([self.settings.url, body])}.json" for body in bodies]
        missing = {file_path: body for file_path, body in zip(paths, bodies, strict=True) if not file_path.is_file()}
        if missing:
            with self._connected() as http, ThreadPoolExecutor(self.settings.max_concurrency) as pool:
                waiting = [
                    pool.submit(self._one, http, path, file_path, body, check) for file_path, body in missing.items()
                ]
                try:
                    for one in waiting:
                        one.result()
                finally:
                    pool.shutdown(cancel_futures=True)
        return [json.loads(file_path.read_text(encoding="utf-8")) for file_path in paths]

    def _one(
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
                text = self._refusal(response)
                request = response.headers.get("retry-after")
            if attempt < self.settings.retries:
                time.sleep(min(LONGEST_WAIT_S, float(request) if request and request.isdigit() else wait))
                wait *= 2
        hint = "what was answered is kept: run it again to go on; `retries` and `timeout_s` can be raised"
        raise self._wrong(f"no answer after {self.settings.retries + 1} tries: {text}", hint)

    def _refusal(self, response: httpx.Response) -> str:
        """What the server said; `ModelError` when trying again is of no use."""
        code, text = response.status_code, self._hidden(_why(response.text))
        if code in _AGAIN:
            return f"{code} {text}"
        hint = "look at the model's name and the address"
        if code in (401, 403):
            key = self.settings.key_env
            hint = f"look at the key in ${key}" if key else "the server wants a key: name its variable in `key_env`"
        raise self._wrong(f"answered {code}: {text}", hint)

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            record = response.json()
        except ValueError as error:
            text = self._hidden(response.text[:80])
            raise self._wrong(f"answered what is no JSON: {text!r}", "is this the address of an API?") from error
        return record if isinstance(record, dict) else {}

    def _wrong(self, what: str, hint: str) -> ModelError:
        return ModelError(f"{self.settings.url} {what}", where=SourceLocation(field="model"), hint=hint)

    def _hidden(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
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
            raise self._wrong(f"is no address: {error}", "as in https://api.openai.com/v1") from error


def read_endpoint(artifact: Artifact) -> EndpointModelSource:
    """How the endpoint of a model artifact is reached."""
    return EndpointModelSource.model_validate(find_origin_artifact(artifact).read_json(ENDPOINT))


def match_option(text: str, options: Sequence[str]) -> int | None:
    """The option that a text is, without case, blanks and punctuation around it; None when it is none of them."""
    plain = [option.strip(_AROUND).casefold() for option in options]
    message = text.strip(_AROUND).casefold()
    return plain.index(message) if message in plain else None


def score_options_by_first_token(first: Mapping[str, float], options: Sequence[str]) -> list[float]:
    """Log-score of each option: the summed share of first tokens with which it, and no other option, begins.

    Options that none of the tokens begins share what is left over evenly, at most the least token's share each.
    """
    plain = [option.strip().casefold() for option in options]
    found = [0.0] * len(options)
    for token, logprob in first.items():
        started = token.strip().casefold()
        able = [index for index, option in enumerate(plain) if started and option.startswith(started)]
        if len(able) == 1:
            found[able[0]] += math.exp(logprob)
    left = max(1e-12, 1.0 - sum(math.exp(logprob) for logprob in first.values()))
    rest = min(left / len(options), math.exp(min(first.values())))
    return [math.log(max(share, rest)) for share in found]


def _read(answer: Mapping[str, Any], url: str) -> _Completion:
    """The first choice of a response; `ModelError` when it is not in the API's form."""
    try:
        choice = answer["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or [{}]
        first = {one["token"]: float(one["logprob"]) for one in content[0].get("top_logprobs", ())}
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


def _why(text: str) -> str:
    """The message of an error's body, or the beginning of the body."""
    try:
        record = json.loads(text)
        return str(record["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
