"""Messages between a coordinator and its sites: a small JSON header, and tensors as safetensors; never code.

A message is `LUF1`, the header's length (8 bytes, big-endian), the header, and the tensors. A received message is
validated before use: kind, round, names, shapes, dtypes, and that every number is finite. Headers are padded with
spaces, so that the size of an encrypted message reveals nothing about the numbers in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from luthier.core.component import Component, add_field_descriptions
from luthier.federated.aggregator import Factors, GlobalWeights
from luthier.federated.decontamination.settings import DecontaminationSettings
from luthier.federated.errors import MessageError, replace_control_characters
from luthier.federated.privacy import FederatedPrivacy
from luthier.federated.secure_aggregation.dropout_masks import MaskKeys
from luthier.federated.secure_aggregation.masks import MaskSettings

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"LUF1"
HEADER_BYTES = 16 << 20
"""The largest header that is read."""
PADDING_BYTES = 512
"""Headers are padded to a multiple of this."""
MOST_ROWS = 1 << 40
"""Rows that a site may claim: more are no number of rows."""
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalWork(BaseModel):
    """The amount of training of a site in each round."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    epochs: float | None = Field(default=None, gt=0, le=1000)
    """Passes over the rows in a round."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a round, in place of `epochs`."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give `epochs` or `steps` of a round, one of them")
        return self


class Order(_Header):
    """Message 0 of a coordinator: what is to be trained, on what, and how."""

    kind: Literal["order"] = "order"
    federation: str = Field(pattern=r"^[0-9a-f]{8,128}$")
    """The digest that the coordinator's artifact will have: it names settings, code, base and sites."""
    tune: dict[str, Any]
    """Settings of the training, as a step `tune` has them."""
    sum: dict[str, Any]
    """Settings of the aggregator."""
    rounds: int = Field(ge=1)
    local: LocalWork
    proximal: float = 0.0
    control_variates: bool = False
    position: int = Field(default=0, ge=0)
    """The site's position among the sites (from 0), by which a round tells what was counted of it."""
    seed: int
    base: str
    """The digest of the base model's weights and configuration."""
    code: str
    """The revision of the code that trains."""
    wants_classes: bool
    classes: list[str] = []
    """The classes that were agreed by counts; then no site names any."""

    @property
    def asks_classes(self) -> bool:
        """Whether sites are asked for the names of their classes."""
        return self.wants_classes and not self.classes

    metrics: list[dict[str, Any]] = []
    """What is measured at the end, as metrics' settings."""
    masks: MaskSettings | None = None
    """How updates are encoded under masks; None: there are none."""
    group: list[str] = []
    """Fingerprints of all sites, sorted, under masks."""
    least: int | None = Field(default=None, ge=1)
    """Sites that must remain in each masked round; None: all, which saves four of its five messages."""

    privacy: FederatedPrivacy | None = None
    """What is promised to rows, groups or sites."""
    personal: dict[str, Any] | None = None
    """Settings of the part of the model that stays at each site; None: all of it travels."""
    decontaminate: DecontaminationSettings | None = None
    """How training rows are compared with what other sites hold out; None: they are not."""
    compared: list[str] = []
    """Fingerprints of all sites, sorted, where rows are compared."""

    @property
    def stages(self) -> int:
        """Messages of a round."""
        return 1 if self.masks is None or self.least is None else len(STAGES)

    @property
    def comparisons(self) -> int:
        """Messages between the order and the first round."""
        return 0 if self.decontaminate is None else len(COMPARISONS)

    @property
    def last_number(self) -> int:
        """The number of the message that ends the federation."""
        return self.comparisons + self.rounds * self.stages + 1

    def find_stage(self, number: int) -> tuple[int, int]:
        """Round (from 1) and stage (from 0) of a message by its number; round 0 and below before the first."""
        before, stage = divmod(number - 1 - self.comparisons, self.stages)
        return before + 1, stage


class Enrolled(_Header):
    """The answer of a site that takes part."""

    kind: Literal["enrolled"] = "enrolled"
    rows: Rows | None = None
    """Training rows; not told under masks."""
    classes: dict[str, str] = {}
    """What the assistant says for each class with enough rows, where the objective names classes."""


class BlindRequest(_Header):
    """Asks for blinded points of the bands of a site's training rows."""

    kind: Literal["blind_request"] = "blind_request"


class BlindedRows(_Header):
    """Envelopes with them, by the fingerprint of the site that each is for, as tensors of bytes."""

    kind: Literal["blinded_rows"] = "blinded_rows"


class ComparisonRequest(_Header):
    """Those for one site, by sender; asks it to evaluate them, and for tags of its held-out rows."""

    kind: Literal["comparison_request"] = "comparison_request"


class EvaluatedRows(_Header):
    """Envelopes with both, by reader."""

    kind: Literal["evaluated_rows"] = "evaluated_rows"


class CandidateRequest(_Header):
    """Those for one site, by sender; asks for blinded points of more bands of the rows that may be near copies."""

    kind: Literal["candidate_request"] = "candidate_request"


class LeaveOutRequest(_Header):
    """What was evaluated of these, by sender; asks a site to leave out the rows that others hold near copies of out."""

    kind: Literal["leave_out_request"] = "leave_out_request"


class LeaveOutResponse(_Header):
    """A site left out what it had to."""

    kind: Literal["remaining_rows"] = "remaining_rows"
    left_out: int | None = Field(default=None, ge=0)
    """How many; not told where they are few, under masks, or with `privacy`."""


class Rejection(_Header):
    """The answer of a site that does not do what it was asked."""

    kind: Literal["rejection"] = "rejection"
    message: Annotated[str, AfterValidator(replace_control_characters)] = Field(max_length=1000)


class RoundStart(_Header):
    """A round (from 1) with the weights to begin with."""

    kind: Literal["round"] = "round"
    round: int = Field(ge=1)
    classes: dict[str, str] = {}
    counted: list[int] = []
    """With control variates: the last round in which each site's update was part of a sum, by the site's position."""


class RoundUpdate(_Header):
    """What a site trained in a round."""

    kind: Literal["update"] = "update"
    round: int = Field(ge=1)
    answers: str
    """SHA-256 of the message that began the round."""
    rows: Rows | None = None
    steps: Rows | None = None
    loss: float | None = Field(default=None, allow_inf_nan=False)
    """Under masks, none of the three is told: rows and loss are among the masked numbers. With `privacy`, no loss."""


class RoundKeys(_Header):
    """A site's keys for a masked round, after its training."""

    kind: Literal["keys"] = "keys"
    keys: MaskKeys


class KeyList(_Header):
    """The keys of all sites that trained in time, by fingerprint."""

    kind: Literal["key_list"] = "key_list"
    round: int = Field(ge=1)
    keys: dict[str, MaskKeys]


class SharesSent(_Header):
    """Encrypted shares of a site's secrets, by reader."""

    kind: Literal["shares"] = "shares"
    shares: dict[str, str]


class ShareList(_Header):
    """Encrypted shares for one site, by sender; asks for masked numbers."""

    kind: Literal["share_list"] = "share_list"
    round: int = Field(ge=1)
    shares: dict[str, str]
    senders: list[str]
    """All sites that shared their secrets."""


class SurvivorList(_Header):
    """The sites whose masked numbers came; asks for a signature."""

    kind: Literal["survivors"] = "survivors"
    round: int = Field(ge=1)
    survivors: list[str]


class SurvivorSignature(_Header):
    """A site's signature of that list."""

    kind: Literal["signature"] = "signature"
    signature: str


class UnmaskRequest(_Header):
    """The signatures of that list; asks for shares."""

    kind: Literal["unmask"] = "unmask"
    round: int = Field(ge=1)
    signatures: dict[str, str]


class SharesRevealed(_Header):
    """Shares of the seeds of sites that remain, and of the mask keys of those that do not, by owner."""

    kind: Literal["revealed"] = "revealed"
    seeds: dict[str, str]
    masks: dict[str, str]


class Final(_Header):
    """The weights of the last round: to be measured where metrics were agreed, and for the sites' own models."""

    kind: Literal["final"] = "final"
    classes: dict[str, str] = {}


class Measured(_Header):
    """What a site measured with the last weights: sums over its held-out rows."""

    kind: Literal["measured"] = "measured"
    rows: int = Field(ge=0, le=MOST_ROWS)
    sums: dict[str, list[float]] = {}
    """Sufficient statistics by metric."""
    personal: bool = False
    """Whether a model of the site's own lies there."""


class CountPrivacy(BaseModel):
    """Noise in each count of a site, which protects each of its rows from everybody else."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=add_field_descriptions)

    epsilon: float = Field(gt=0, le=100)
    """The ε of all answers together about any one row."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """The chance with which that may fail; well below one over the number of rows."""


QuestionStage = Literal["salt", "tables", "names", "counts"]
"""Under masks, names are agreed in three stages: a salt that the coordinator does not have, tables of how many rows
have names of each hash, and the names. Without, in the last of them alone."""


class SiteQuestion(_Header):
    """Asks for counts of a site's rows, or for the names of what is counted."""

    kind: Literal["question"] = "question"
    federation: str = Field(pattern=r"^[0-9a-f]{8,128}$")
    """The digest that the coordinator's artifact will have."""
    query: dict[str, Any]
    """Settings of the question."""
    stage: QuestionStage
    code: str
    """The revision of the code that counts."""
    seed: int
    least_rows: int = Field(ge=1)
    """Counts below this are not told: a site's own, or under masks those of all sites."""
    classes: list[str] = []
    fields: list[str] = []
    """The names that were agreed."""
    group: list[str] = []
    """Fingerprints of all sites, sorted, under masks; none without."""
    least: int | None = Field(default=None, ge=1)
    """Sites that must remain in a masked sum; None: all."""
    sealed: str = ""
    """The salt, sealed for this site by the first of the group."""
    heavy: list[list[int]] = []
    """Buckets of each table that enough rows fell into."""
    privacy: CountPrivacy | None = None
    noise: float | None = Field(default=None, gt=0)
    """Standard deviation of the noise in each count, with `privacy`."""

    @property
    def masks(self) -> bool | None:
        """Mask settings of the counts; None without masks, as in an order."""
        return True if self.group else None


class CountAnswer(_Header):
    """A site's unmasked counts, which are the message's only tensor."""

    kind: Literal["counted"] = "counted"
    answers: str
    """SHA-256 of the question."""
    names: list[str] = []
    """Of classes and fields that enough of its rows have."""
    sealed: dict[str, str] = {}
    """A salt for each other site, by fingerprint."""


Header = (
    Order | SiteQuestion | Enrolled | CountAnswer | BlindRequest | BlindedRows | ComparisonRequest | EvaluatedRows
    | CandidateRequest | LeaveOutRequest | LeaveOutResponse | Rejection | RoundStart | RoundUpdate | RoundKeys
    | KeyList | SharesSent | ShareList | SurvivorList | SurvivorSignature | UnmaskRequest | SharesRevealed | Final
    | Measured
)  # fmt: skip
STAGES: tuple[type[_Header], ...] = (RoundStart, KeyList, ShareList, SurvivorList, UnmaskRequest)
"""Messages of a coordinator in a masked round that tolerates dropouts."""
COMPARISONS: tuple[type[_Header], ...] = (
    BlindRequest, ComparisonRequest, CandidateRequest, ComparisonRequest, LeaveOutRequest
)  # fmt: skip
"""Messages of a coordinator before the first round where rows are compared."""
QUESTIONS: tuple[type[_Header], ...] = (Order, *dict.fromkeys(COMPARISONS), *STAGES, Final)
ASKED: tuple[type[_Header], ...] = (SiteQuestion, *STAGES[1:], Final)
"""Messages of a coordinator that sites answer with counts."""
ANSWERS: tuple[type[_Header], ...] = (
    Enrolled, CountAnswer, BlindedRows, EvaluatedRows, LeaveOutResponse,
    RoundUpdate, RoundKeys, SharesSent, SurvivorSignature, SharesRevealed, Measured, Rejection
)  # fmt: skip
_ALL: list[type[_Header]] = [SiteQuestion, *QUESTIONS, *ANSWERS]
_KINDS: dict[str, type[_Header]] = {kind.model_fields["kind"].default: kind for kind in _ALL}


class FederationMessage(NamedTuple):
    """A header with its tensors."""

    header: Any
    tensors: Mapping[str, Tensor] = {}  # a NamedTuple's default is never changed

    def encode(self) -> bytes:
        """The message's bytes; the same message makes the same."""
        header = json.dumps(self.header.model_dump(mode="json"), sort_keys=True, ensure_ascii=False).encode()
        header += b" " * (-len(header) % PADDING_BYTES)
        return MAGIC + len(header).to_bytes(8, "big") + header + pack_tensors(self.tensors)

    @classmethod
    def decode(cls, content: bytes, *kinds: type[_Header]) -> FederationMessage:
        """A message of one of some kinds; `MessageError` for any other, or one that is not whole."""
        length = int.from_bytes(content[4:12], "big")
        if content[:4] != MAGIC or length > min(HEADER_BYTES, len(content) - 12):
            raise MessageError("this is no message of a federation")
        try:
            found = json.loads(
                content[12 : 12 + length], object_pairs_hook=_read_object, parse_float=_read_float,
                parse_constant=_refuse_constant,
            )  # fmt: skip
            kind = _KINDS[str(found["kind"])]
            header = kind.model_validate(found)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{error.error_count()} settings do not fit" if isinstance(error, ValidationError) else "no header"
            raise MessageError(f"a message cannot be read: {reason}") from error
        if kind not in kinds:
            expected = " or ".join(sorted(entry.model_fields["kind"].default for entry in kinds))
            raise MessageError(f"expected a message of kind {expected}, got {header.kind}")  # type: ignore[attr-defined]
        return cls(header, unpack_tensors(content[12 + length :]))


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; `ValueError` where a name stands twice, which two readers could read differently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _read_float(text: str) -> float:
    """A finite number; `ValueError` for one such as 1e999."""
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def dump_given_settings(part: BaseModel) -> dict[str, Any]:
    """The settings that a part was given, with its kind, as plain JSON values that make an equal part."""
    given = {name: _dump(getattr(part, name)) for name in type(part).model_fields if name in part.model_fields_set}
    return {"kind": part.kind, **given} if isinstance(part, Component) else given


def _dump(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return dump_given_settings(value)
    if isinstance(value, (list, tuple)):
        return [_dump(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _dump(entry) for key, entry in value.items()}
    return value


def digest_message(content: bytes) -> str:
    """SHA-256 of a message's bytes, as logs name it."""
    return hashlib.sha256(content).hexdigest()


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors; equal tensors make equal bytes."""
    from safetensors.torch import save

    content: bytes = save({name: tensors[name].contiguous() for name in sorted(tensors)})
    return content


def unpack_tensors(content: bytes) -> dict[str, Tensor]:
    """Parse received tensors; `MessageError` for invalid ones, or a number that is not finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise MessageError("a message's tensors cannot be read") from error
    known = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)  # the last: bytes
    for name, value in found.items():
        if value.dtype not in known:
            raise MessageError(f"{name[:200]} is {value.dtype}, which no message has")
        if not bool(value.isfinite().all()):
            raise MessageError(f"{name[:200]} holds a number that is not finite")
    return found


_WEIGHT, _UP, _DOWN = "weight/", "up/", "down/"


def pack_weights(given: GlobalWeights) -> dict[str, Tensor]:
    """Return a round's initial weights as tensors by name."""
    found = {f"{_WEIGHT}{name}": value for name, value in given.moving.items()}
    for name, factors in given.base.items():
        found |= {f"{_UP}{name}": factors.up, f"{_DOWN}{name}": factors.down}
    return found


def unpack_weights(tensors: Mapping[str, Tensor]) -> GlobalWeights:
    """Return a round's initial weights from tensors; `MessageError` for unknown names."""
    moving: dict[str, Tensor] = {}
    base: dict[str, Factors] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if f"{kind}/" == _WEIGHT:
            moving[name] = value
        elif f"{kind}/" == _UP and f"{_DOWN}{name}" in tensors:
            base[name] = Factors(value, tensors[f"{_DOWN}{name}"])
        elif not (f"{kind}/" == _DOWN and f"{_UP}{name}" in tensors):
            raise MessageError(f"weights are called {key[:200]!r}, which means nothing")
    return GlobalWeights(moving, base)


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], sender: str) -> None:
    """`MessageError` unless tensors have exactly the expected names, shapes and types."""
    missing = sorted(expected.keys() - found.keys()) + sorted(found.keys() - expected.keys())
    if missing:
        raise MessageError(f"{sender} sends other weights than were asked for: {missing[0][:200]}")
    for name, value in expected.items():
        if found[name].shape != value.shape or found[name].dtype != value.dtype:
            got, due = (f"{entry.dtype} {tuple(entry.shape)}" for entry in (found[name], value))
            raise MessageError(f"{sender} sends {name} as {got} where {due} was asked for")
