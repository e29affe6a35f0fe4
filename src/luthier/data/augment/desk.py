"""Asking the step's model, on this machine or behind an endpoint; what was answered is kept, so none is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from luthier.core.artifact import Artifact
from luthier.core.digest import canonical, digest_of
from luthier.core.files import write_aside
from luthier.text.messages import Message, as_openai
from luthier.text.prompt import Prompt

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.text.ids import Text

T = TypeVar("T")
Turns = Sequence[Message]
TOP_P = 0.95
"""Only the likeliest tokens that together have this share are drawn from."""


class Said(NamedTuple):
    """What a model wrote, and whether it ended by itself."""

    text: str
    finished: bool


class Desk(Protocol):
    """Where a model is asked."""

    def write(self, asked: Sequence[Turns], seeds: Sequence[int], *, max_tokens: int, temperature: float) -> list[Said]:
        """One answer to each conversation, drawn with a seed of its own."""
        ...

    def choose(self, asked: Sequence[Turns], options: Sequence[str]) -> list[str | None]:
        """Which of several answers the model gives to each conversation."""
        ...


def open_desk(model: Artifact, kept: Path) -> Desk:
    """The desk of a model's artifact; finished answers lie in `kept`, a folder that outlives a killed run."""
    from luthier.models.load import is_endpoint

    return Distant(model, kept) if is_endpoint(model) else Local(model, kept)


class Local:
    """A model whose weights are here; they are read only when something is not answered yet."""

    def __init__(self, artifact: Artifact, kept: Path) -> None:
        self._artifact, self._kept = artifact, kept
        self._before = Prompt.of(artifact)

    def write(self, asked: Sequence[Turns], seeds: Sequence[int], *, max_tokens: int, temperature: float) -> list[Said]:
        """Answers in one batch; each draws from a random stream of its own."""
        key = ["write", _plain(asked), list(seeds), max_tokens, temperature]
        return [Said(*one) for one in self._kept_or(key, lambda: self._written(asked, seeds, max_tokens, temperature))]

    def choose(self, asked: Sequence[Turns], options: Sequence[str]) -> list[str | None]:
        """The likeliest option by its log-probability."""
        places: list[int] = self._kept_or(
            ["choose", _plain(asked), list(options)], lambda: self._chosen(asked, options)
        )
        return [options[place] for place in places]

    def _written(self, asked: Sequence[Turns], seeds: Sequence[int], limit: int, temperature: float) -> list[Said]:
        from luthier.models.decoder import Sampling
        from luthier.models.generate import generate

        ids = self._text.prompts([tuple(turns) for turns in asked], [()] * len(asked))
        sampling, ends = Sampling(temperature=temperature, top_p=TOP_P), self._text.end_ids
        written = generate(self._loaded, ids, limit, ends, sampling=sampling, streams=[seed >> 1 for seed in seeds])
        return [
            Said(
                self._text.decode([one for one in own if one not in ends], special=False).strip(),
                len(own) < limit or own[-1] in ends,
            )
            for own in written
        ]

    def _chosen(self, asked: Sequence[Turns], options: Sequence[str]) -> list[int]:
        from luthier.models.generate import score_options

        pairs = [self._text.options(tuple(turns), list(options), ()) for turns in asked]
        sums = score_options(self._loaded.model, [before for before, _ in pairs], [told for _, told in pairs])
        return [max(range(len(options)), key=row.__getitem__) for row in sums]

    def _kept_or(self, key: object, make: Callable[[], list[T]]) -> list[T]:
        place = self._kept / f"{digest_of([self._artifact.digest, key])}.json"
        if not place.is_file():
            write_aside(place, canonical(make()).encode())
        found: list[T] = json.loads(place.read_text(encoding="utf-8"))
        return found

    @cached_property
    def _loaded(self) -> Loaded:
        from luthier.models.load import load

        return load(self._artifact)

    @cached_property
    def _text(self) -> Text:
        from luthier.text.ids import Text

        return Text.load(self._loaded.folder, before=self._before)


class Distant:
    """A model behind an endpoint; its client keeps what was answered."""

    def __init__(self, artifact: Artifact, kept: Path) -> None:
        from luthier.models.endpoint import Client

        self._client = Client.of(artifact, kept)
        self._before = Prompt.of(artifact)

    def write(self, asked: Sequence[Turns], seeds: Sequence[int], *, max_tokens: int, temperature: float) -> list[Said]:
        """Answers, several calls at a time; each request has a seed of its own."""
        each = [{"seed": seed >> 33} for seed in seeds]  # what fits 31 bits is taken everywhere
        said = self._client.write(self._turns(asked), max_tokens, each=each, temperature=temperature, top_p=TOP_P)
        return [Said(one.text.strip(), one.finished) for one in said]

    def choose(self, asked: Sequence[Turns], options: Sequence[str]) -> list[str | None]:
        """What the model names; None when that is no option."""
        picked = self._client.pick(self._turns(asked), options)
        return [None if one.place is None else options[one.place] for one in picked]

    def _turns(self, asked: Sequence[Turns]) -> list[list[dict[str, Any]]]:
        return [as_openai(self._before.wrap(turns)) for turns in asked]


def _plain(asked: Sequence[Turns]) -> list[list[dict[str, Any]]]:
    return [as_openai(turns) for turns in asked]
