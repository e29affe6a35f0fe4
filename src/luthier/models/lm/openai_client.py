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

from luthier.core.artifact import Artifact
from luthier.core.digest import canonical, digest_of
from luthier.core.errors import ModelError, Where
from luthier.core.files import write_aside
from luthier.models.lm.base import Ability, Choice, ChoiceRequest, GenerateRequest, LanguageModel, Response
from luthier.models.load import ENDPOINT, origin_artifact
from luthier.models.options import Normalise
from luthier.models.sources.endpoint import Endpoint
from luthier.text.messages import as_openai
from luthier.text.prompt import Prompt

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

    def __init__(self, settings: Endpoint, kept: Path | None = None, before: Prompt | None = None) -> None:
        self.settings, self.before = settings, before or Prompt()
        self.name = settings.model
        self._kept = kept

    @classmethod
    def of(cls, artifact: Artifact, kept: Path | None = None) -> EndpointLM:
        """The model of an artifact whose base is an endpoint."""
        return cls(endpoint_of(artifact), kept, Prompt.of(artifact))

    @property
    def digest(self) -> str:  # type: ignore[override]  # follows the prompt in front
        """Names the address, how it is asked, and the prompt in front."""
        return digest_of([self.settings.settings(), self.before.digest])

    def with_prompt(self, before: Prompt) -> EndpointLM:
        """The same model with another prompt in front."""
        return EndpointLM(self.settings, self._kept, before)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Response]:
        """The completion of each conversation, several calls at a time."""
        return [one.response for one in self._chat([self._body(one) for one in requests])]

    def stream(self, request: GenerateRequest) -> Iterator[str]:
        """The whole completion at once; it is not kept."""
        return iter([EndpointLM(self.settings, None, self.before).generate([request])[0].text])

    def choose(self, requests: Sequence[ChoiceRequest], how: Normalise = "sum") -> list[Choice]:
        """Which option each conversation is answered with, by its text or by first tokens, whatever `how` says."""
        by_text = self.settings.labels == "text"
        limit, more = (self.settings.label_tokens, {}) if by_text else (1, {"logprobs": True, "top_logprobs": TOP})
        asked = [GenerateRequest(prompt=one.prompt, max_tokens=limit) for one in requests]
        found = self._chat([{**self._body(one), **more} for one in asked])
        if by_text:
            pairs = zip(found, requests, strict=True)
            return [Choice(index=named(one.response.text, asked.options)) for one, asked in pairs]
        return [self._likeliest(one.first, asked.options) for one, asked in zip(found, requests, strict=True)]

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first choice of each answer of `/v1/completions`, as it came; for prompts that are token ids."""
        told = self._told(bodies, "completions", self._choice)
        return [self._choice(one) for one in told]

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
            "messages": as_openai(self.before.wrap(request.prompt)),
        }

    def _choice(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        found = answer.get("choices") or [None]
        if not isinstance(found, list) or not isinstance(found[0], dict):
            said = canonical(dict(answer))[:120]
            raise self._wrong(f"answered in another form than /v1/completions: {said}", "is it such a server?")
        return found[0]

    def _likeliest(self, first: Mapping[str, float], options: Sequence[str]) -> Choice:
        if not first:
            raise ModelError(
                f"{self.settings.url} gives no logprobs",
                where=Where(field="model.labels"),
                remedy="write `labels: text`",
            )
        scores = shares(first, options)
        return Choice(index=max(range(len(options)), key=scores.__getitem__), scores=scores)

    def _chat(self, bodies: Sequence[dict[str, Any]]) -> list[_Completion]:
        """All answers in order."""
        told = self._told(bodies, "chat/completions", lambda answer: _read(answer, self.settings.url))
        return [_read(one, self.settings.url) for one in told]

    def _told(
        self, bodies: Sequence[dict[str, Any]], path: str, check: Callable[[Mapping[str, Any]], object]
    ) -> list[dict[str, Any]]:
        """What was answered, in order, each request sent once; those that came before a failure are kept."""
        if self._kept is None:
            with TemporaryDirectory(prefix="luthier.calls.") as kept:
                return EndpointLM(self.settings, Path(kept))._told(bodies, path, check)
        places = [self._kept / f"{digest_of([self.settings.url, body])}.json" for body in bodies]
        missing = {place: body for place, body in zip(places, bodies, strict=True) if not place.is_file()}
        if missing:
            with self._connected() as http, ThreadPoolExecutor(self.settings.at_once) as pool:
                waiting = [pool.submit(self._one, http, path, place, body, check) for place, body in missing.items()]
                try:
                    for one in waiting:
                        one.result()
                finally:
                    pool.shutdown(cancel_futures=True)
        return [json.loads(place.read_text(encoding="utf-8")) for place in places]

    def _one(
        self, http: httpx.Client, path: str, place: Path, body: dict[str, Any],
        check: Callable[[Mapping[str, Any]], object],
    ) -> None:  # fmt: skip
        answer = self._call(http, path, body)
        check(answer)
        write_aside(place, canonical(answer).encode())

    def _call(self, http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import httpx

        wait, said = FIRST_WAIT_S, ""
        for attempt in range(self.settings.retries + 1):
            asked = None
            try:
                response = http.post(path, json=body)
            except httpx.TransportError as error:
                said = f"{type(error).__name__} after {self.settings.timeout_s:g} s at most"
            else:
                if response.status_code == httpx.codes.OK:
                    return self._json(response)
                said = self._refusal(response)
                asked = response.headers.get("retry-after")
            if attempt < self.settings.retries:
                time.sleep(min(LONGEST_WAIT_S, float(asked) if asked and asked.isdigit() else wait))
                wait *= 2
        remedy = "what was answered is kept: run it again to go on; `retries` and `timeout_s` can be raised"
        raise self._wrong(f"no answer after {self.settings.retries + 1} tries: {said}", remedy)

    def _refusal(self, response: httpx.Response) -> str:
        """What the server said; `ModelError` when trying again is of no use."""
        code, said = response.status_code, self._hidden(_why(response.text))
        if code in _AGAIN:
            return f"{code} {said}"
        remedy = "look at the model's name and the address"
        if code in (401, 403):
            key = self.settings.key_env
            remedy = f"look at the key in ${key}" if key else "the server wants a key: name its variable in `key_env`"
        raise self._wrong(f"answered {code}: {said}", remedy)

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            told = response.json()
        except ValueError as error:
            said = self._hidden(response.text[:80])
            raise self._wrong(f"answered what is no JSON: {said!r}", "is this the address of an API?") from error
        return told if isinstance(told, dict) else {}

    def _wrong(self, what: str, remedy: str) -> ModelError:
        return ModelError(f"{self.settings.url} {what}", where=Where(field="model"), remedy=remedy)

    def _hidden(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
        key = os.environ.get(self.settings.key_env or "", "")
        return text.replace(key, "…") if key else text

    def _headers(self) -> dict[str, str]:
        name = self.settings.key_env
        if name is None:
            return {}
        if not (key := os.environ.get(name, "").strip()):
            where, remedy = Where(field="model.key_env"), f"`export {name}=…`, or take `key_env` out"
            raise ModelError(f"the environment variable {name} is not set", where=where, remedy=remedy)
        return {"Authorization": f"Bearer {key}"}

    def _connected(self) -> httpx.Client:
        import httpx

        url, headers = f"{self.settings.url.rstrip('/')}/", self._headers()
        try:
            return httpx.Client(base_url=url, headers=headers, timeout=self.settings.timeout_s)
        except httpx.InvalidURL as error:
            raise self._wrong(f"is no address: {error}", "as in https://api.openai.com/v1") from error


def endpoint_of(artifact: Artifact) -> Endpoint:
    """How the endpoint of a model artifact is reached."""
    return Endpoint.model_validate(origin_artifact(artifact).read_json(ENDPOINT))


def named(text: str, options: Sequence[str]) -> int | None:
    """The option that a text is, without case, blanks and punctuation around it; None when it is none of them."""
    plain = [option.strip(_AROUND).casefold() for option in options]
    said = text.strip(_AROUND).casefold()
    return plain.index(said) if said in plain else None


def shares(first: Mapping[str, float], options: Sequence[str]) -> list[float]:
    """Log-score of each option: the summed share of first tokens with which it, and no other option, begins.

    Options that none of the tokens begins share what is left over evenly, at most the least token's share each.
    """
    plain = [option.strip().casefold() for option in options]
    found = [0.0] * len(options)
    for token, logprob in first.items():
        begun = token.strip().casefold()
        able = [place for place, option in enumerate(plain) if begun and option.startswith(begun)]
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
        what = f"{url} answered in another form than /v1/chat/completions: {canonical(dict(answer))[:120]}"
        raise ModelError(what, where=Where(field="model.url"), remedy="is it an OpenAI-compatible server?") from error


def _why(text: str) -> str:
    """The message of an error's body, or the beginning of the body."""
    try:
        told = json.loads(text)
        return str(told["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
