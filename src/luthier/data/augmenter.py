"""The role augmenter: it answers a request, which names one training row, with a draft of a new row.

An augmenter decides nothing else. Which wishes are made, which drafts are refused and how many are kept is the step's
business, so that every kind is checked and counted alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from pydantic import Field

from luthier.chat.media_codec import KeptMedia
from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.core.component import Component
from luthier.core.context import RunContext
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.models.lm.base import LanguageModel

Kept = TypeVar("Kept")


class AugmentRequest(NamedTuple):
    """A request for one new row to be made from a training row, with its own random seed."""

    row: Row
    copy: int
    """How many were wanted of this row before, by the same augmenter."""
    seed: int
    """64 bits that follow from the recipe's seed, the augmenter, the row's id and `copy`, and from nothing else."""

    @property
    def chance(self) -> Random:
        """This wish's own dice, from the beginning."""
        return Random(self.seed)


class AugmentedDraft(NamedTuple):
    """A row as an augmenter would have it."""

    messages: tuple[Message, ...]
    did: tuple[str, ...]
    """What was done, in words."""
    parents: tuple[str, ...] = ()
    """Ids of rows that had a part in it, beside the wish's own."""
    finished: bool = True
    """False when a model was cut off while it wrote."""
    meta: Mapping[str, Any] = {}
    """Columns of `meta` that become something else."""
    new: bool = False
    """A row of its own rather than another form of its parent: the parent's length, numbers, tags and `meta` do not
    bind it."""
    media: Mapping[str, bytes] = {}
    """The bytes of pictures and sounds of its turns that no row had before, by digest."""
    doubt: str = ""
    """Why it should not be taken, when the augmenter itself says so."""


class TextChange(NamedTuple):
    """A text that was changed, and what was done to it."""

    text: str
    did: tuple[str, ...]


class AugmentTrainRows(Protocol):
    """The training rows as an augmenter may see them."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Rows of each class; empty for free text."""
        ...

    def __len__(self) -> int: ...

    def rows(self) -> Iterator[Row]:
        """All of them in order, streamed from the disk."""
        ...

    def row(self, index: int) -> Row:
        """One of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class AugmentContext(RunContext):
    """What an augmenter may use besides its requests: the training rows, the recipe's folder and the step's model."""

    train: AugmentTrainRows
    lm: LanguageModel | None = None
    """The step's model."""
    read_media: Callable[[str], bytes] | None = None
    """Gives the bytes of a picture or a sound of a row by its digest."""
    _kept: dict[int, Any] = field(default_factory=dict)

    def model(self, augmenter: Augmenter) -> LanguageModel:
        """The step's model; `RecipeError` when the step names none."""
        if self.lm is None:
            what, hint = f"{augmenter.kind} asks a model, and the step names none", "add `model: model`, or a step"
            raise RecipeError(what, where=SourceLocation(field="model"), hint=hint)
        return self.lm

    def once(self, augmenter: Augmenter, learn: Callable[[AugmentTrainRows], Kept]) -> Kept:
        """What an augmenter learns from all training rows, learnt when it is first asked for."""
        key = id(augmenter)
        if key not in self._kept:
            self._kept[key] = learn(self.train)
        found: Kept = self._kept[key]
        return found


class Augmenter(Component):
    """Something that makes new training rows out of others, for the step `augment`."""

    role: ClassVar[str] = "augmenter"
    home: ClassVar[str] = "luthier.data.augmenters"
    asks: ClassVar[bool] = False
    """Whether it may ask the step's model."""
    changes: ClassVar[str] = "text"
    """What of a row it changes; checks of texts are for those that change the `text`."""

    copies: int = Field(default=1, ge=1, le=1000)
    """Rows that are tried for each training row; how many stay is limited by the step's `share` and its checks."""

    @abstractmethod
    def write(self, requests: Sequence[AugmentRequest], around: AugmentContext) -> Sequence[AugmentedDraft | None]:
        """A draft for each wish; None where the row gives nothing to work with.

        A draft depends on its wish and on the training rows, never on the wishes beside it.
        """

    def needs_model(self) -> bool:
        """Whether it cannot work with these settings unless the step names a model."""
        return self.asks

    def limits(self, labels: Mapping[str, int]) -> Mapping[str, int] | None:
        """Rows of each class that it may make at most, and wants to; None: as many as `copies` and the step allow."""
        return None

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rows that are tried for each training row."""
        return {"copies": ParamDistribution(1, 4, integer=True)}


def replace_last_user_text(row: Row, change: Callable[[str], TextChange | None]) -> AugmentedDraft | None:
    """The row with what the user says changed; of a row without a user's turn, the text to continue."""
    role = "user" if any(message.role == "user" for message in row.messages) else "assistant"
    return change_texts(row, change, (role,))


def change_texts(row: Row, change: Callable[[str], TextChange | None], roles: Sequence[str]) -> AugmentedDraft | None:
    """The row with every text of these roles changed; None when none of them is."""
    did: list[str] = []
    for name, text in row.texts(roles):
        text_change = change(text)
        if text_change is not None and text_change.text.count(MEDIA_MARK) != text.count(MEDIA_MARK):
            continue  # a picture or a sound would lose its place
        if text_change is not None and text_change.text != text:
            row = row.with_text(name, text_change.text)
            did += text_change.did
    return AugmentedDraft(row.messages, tuple(dict.fromkeys(did))) if did else None


def change_media(
    row: Row, kind: str, change: Callable[[Media], tuple[KeptMedia, tuple[str, ...]] | None]
) -> AugmentedDraft | None:
    """The row with every picture or sound of its turns changed; None when none of them is."""
    did: list[str] = []
    contents: dict[str, bytes] = {}
    messages: list[Message] = []
    for message in row.messages:
        media: list[Media] = []
        for one in message.media:
            changed = change(one) if one.kind == kind else None
            if changed is None or changed[0].media.digest == one.digest:
                media.append(one)
                continue
            kept, descriptions = changed
            media.append(kept.media)
            contents[kept.media.digest] = kept.content
            did += descriptions
        messages.append(message.model_copy(update={"media": tuple(media)}) if message.media else message)
    return AugmentedDraft(tuple(messages), tuple(dict.fromkeys(did)), media=contents) if contents else None


def last_user_text(row: Row) -> tuple[str, str]:
    """The name and the text of the last thing that a user says; of a row without a user's turn, the text itself."""
    role = "user" if any(message.role == "user" for message in row.messages) else "assistant"
    return list(row.texts((role,)))[-1]


def with_last_user_text(row: Row, text: str) -> tuple[Message, ...]:
    """The row's messages with another last thing asked."""
    return replace(row).with_text(last_user_text(row)[0], text).messages
