"""A step reads artifacts and makes one immutable artifact.

A field annotated with `Reads("dataset")` names another step whose artifact is of that type, or several such steps
(their artifacts are then known as `models.0`, `models.1`, …); `None` in a field that reads a model stands for the
recipe's own model. Everything that decides the bytes goes into the digest; everything a step may touch comes in a
`StepContext`. A step that drives others makes further steps of the same recipe by `StepContext.children`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import BaseModel

from luthier.core.artifact import Artifact
from luthier.core.component import Component, digest_plugin_code, iter_components
from luthier.core.context import RunContext
from luthier.core.errors import RecipeError
from luthier.core.hashing import digest_of
from luthier.core.revision import code_revision


class StepExecutor(Component):
    """Where the steps of a run are made."""

    role: ClassVar[str] = "executor"
    home: ClassVar[str] = "luthier.recipe.executors"


@dataclass(frozen=True)
class Reads:
    """Marks a recipe field as a reference to another step, and names the type of artifact which that step must make."""

    makes: str
    """The kind of an `ArtifactType`."""
    optional: bool = False
    """Whether a field left out reads nothing; a model left out is the recipe's own otherwise."""
    through: str = ""
    """A field that names another step: left out, this one reads what that step reads in the field of the same name."""


@dataclass(frozen=True)
class NotHashed:
    """Marks a field that is left out of the step's hash, because it does not change the artifact."""


DataRef = Annotated[str, Reads("dataset")]
ModelRef = Annotated[str | None, Reads("model")]
EncoderRef = Annotated[str | None, Reads("model", optional=True)]
TeacherRef = Annotated[str | None, Reads("model", optional=True)]
EvaluationRef = Annotated[str | None, Reads("evaluation", optional=True)]
ExplanationRef = Annotated[str | None, Reads("explanation", optional=True)]
FindingsRef = Annotated[str | None, Reads("findings", optional=True)]
JudgmentsRef = Annotated[str | None, Reads("judgments", optional=True)]
ThresholdsRef = Annotated[str | None, Reads("thresholds", optional=True)]


@dataclass(frozen=True, kw_only=True)
class StepContext(RunContext):
    """What a running step receives: its input artifacts, its output folder and its event emitter."""

    name: str
    """The step's name in the recipe."""
    inputs: Mapping[str, Artifact]
    """Checked artifacts by the field that named them."""
    folder: Path
    """Empty at the start; what is here at the end is the artifact."""
    scratch: Path
    """Kept when the run is killed, gone when the step is finished: for checkpoints, written whole (`write_aside`)."""
    upstream: Mapping[str, Step] = field(default_factory=dict)
    """Step settings behind each input field."""
    children: ChildRunner = field(default_factory=lambda: NoChildRunner())  # noqa: PLW0108  # it is defined below
    """Plans and makes further steps, for a step that drives others."""

    @property
    def digest(self) -> str:
        """The name of the artifact that is being made."""
        return self.folder.parent.name


@dataclass(frozen=True, kw_only=True)
class StepCostEstimate:
    """The estimated time, peak memory and tokens of a step, with the basis of the estimate."""

    seconds: float | None = None
    peak_bytes: int | None = None
    tokens: int | None = None
    how: str = ""
    """One sentence on where the numbers come from."""
    statement: str = ""
    """What others learn of the rows while the step runs, and what protects them; a plan begins with it."""
    common_bytes: int | None = None
    """Of the peak, what this process may hold already when the step begins; None: nothing that counts."""
    left_bytes: int = 0
    """What the process will hold when the step is done, which steps after it find."""

    def add_held_bytes(self, held_bytes: int) -> StepCostEstimate:
        """The same in a process that holds so much already, part of which the step needs anyway."""
        if self.peak_bytes is None or self.common_bytes is None:
            return self
        return replace(self, peak_bytes=self.peak_bytes + max(0, held_bytes - self.common_bytes))

    def is_far_from(self, other: StepCostEstimate) -> bool:
        """Whether another forecast knew more or less, or told a quarter more or less time or 15 % of memory.

        Five seconds and 64 MB are too little to speak of.
        """
        pairs = ((self.seconds, other.seconds, 0.25, 5.0), (self.peak_bytes, other.peak_bytes, 0.15, 64e6))
        return any(
            (mine is None) != (its is None)
            or (mine is not None and its is not None and abs(its - mine) > max(share * mine, least))
            for mine, its, share, least in pairs
        )


class TrainingWorkload(NamedTuple):
    """What is to be trained, as far as its cost depends on it."""

    parameters: int
    trainable: int
    layers: int
    hidden_size: int
    steps: float
    """Updates of the weights."""
    step_tokens: float
    """Computed in one update."""
    sequence_tokens: float
    """Of one row."""
    flops: float
    """Of all updates, without what is computed again."""
    microbatch_tokens: int | None = None
    """Read at once by one device; what fits when None."""
    recompute: bool | None = None
    """Whether activations are computed again; where they do not fit when None."""
    bf16: bool = True
    cpu_flops: float | None = None
    """The same on a processor, with what it computes beside them; `flops` when None."""
    start_seconds: float = 0.0
    """Until the first update."""


@dataclass(frozen=True, kw_only=True)
class ChildPlan:
    """What is known of a child before it is made."""

    digest: str
    """The name of its artifact."""
    cached: bool
    forecasts: Mapping[str, StepCostEstimate]
    """What it and those that it reads will cost, by name, as far as they are not made; empty when it is cached."""


class ChildRunner(Protocol):
    """Plans and makes further steps of the recipe for a step that drives others.

    The further steps stand beside those behind the driving step, whose names they may take: what is behind them is then
    made with the change. They may read those and one another, and nothing else of the recipe. They are planned, locked,
    cached, refused and logged as steps of the recipe are; their events come under the driving step's name and theirs.
    """

    @property
    def steps(self) -> Mapping[str, Step]:
        """The steps that the driving step reads, directly or not, by name."""
        ...

    def plan(self, steps: Mapping[str, Step], name: str) -> ChildPlan:
        """Plan one of some further steps and what it reads; raises the `LuthierError` by which it is refused."""
        ...

    def make(self, steps: Mapping[str, Step], name: str, *, threads: int | None = None) -> Artifact:
        """The artifact of one of some further steps, found or made with all that it reads; with `threads`, in processes
        that compute with so many, and then safe to call from several threads.

        Raises the child's `LuthierError`, which the driving step may catch; what stops the run is none.
        """
        ...


class NoChildRunner:
    """Refuses children: where one step is made without a recipe."""

    steps: ClassVar[Mapping[str, Step]] = {}

    def plan(self, steps: Mapping[str, Step], name: str) -> ChildPlan:
        """Refuse."""
        raise self._refusal(name)

    def make(self, steps: Mapping[str, Step], name: str, *, threads: int | None = None) -> Artifact:
        """Refuse."""
        raise self._refusal(name)

    @staticmethod
    def _refusal(name: str) -> RecipeError:
        return RecipeError(f"{name!r} cannot be made here", hint="run the recipe: `luthier run`")


Merging = Literal["plain", "dequantized", "tied", "never"]
"""How what a model has learnt can be merged into weights: as it is, into those that a quantized base stands for, or not
at all: at an output head whose weight is that of the embeddings, or by its nature."""


@dataclass(frozen=True, kw_only=True)
class ArtifactSpec:
    """What an artifact is expected to hold before it is made; what cannot be known is None."""

    rows: Mapping[str, int] | None = None
    """Of a data set: rows by split."""
    examples: Sequence[Mapping[str, Any]] = ()
    """Of a data set: some of the rows that were looked at, each with the `messages`, `tools` and `meta` that it will
    have, as far as they are known before operators edit them."""
    task: str | None = None
    """Of a data set: whether answers are classes (`label`) or free text (`text`)."""
    answers: Sequence[str] = ()
    """Of a data set: the different answers of the rows that were looked at."""
    parameters: int | None = None
    """Of a model: numbers in its weights."""
    tokenizer: Path | None = None
    """Of a model: the folder of what it stands on, with its tokenizer and chat template, where that is here."""
    chat_template: str | None = None
    """Of a model: the chat template that takes the place of its own, where the recipe sets one."""
    config: Mapping[str, Any] | None = None
    """Of a model that is composed: the sizes that its `config.json` will tell."""
    tensors: Mapping[str, tuple[int, ...]] | None = None
    """Of a model that is composed: the shapes of the weights that it will have, by name."""
    tools: bool | None = None
    """Of a model whose files are not here: whether its chat template has a place for tools; None: that is not known."""
    remote: bool = False
    """Of a model: whether it is asked over HTTP and has no weights here."""
    network: bool = True
    """Of a model: whether it is a neural network; a plain classifier of words is none."""
    merging: Merging = "plain"
    """Of a model: how what it has learnt can be merged."""
    headed: bool = False
    """Of a model: whether it names classes or gives a number by a head of its own, and writes no text."""
    how: str = ""
    """Where the numbers come from; of a data set, what follows on `250 rows`."""


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """What is known before a step runs; inputs that are not made yet are absent."""

    inputs: Mapping[str, Artifact]
    upstream: Mapping[str, Step]
    """Step settings behind each input field, made or not."""
    recipe_dir: Path
    outlines: Mapping[str, ArtifactSpec] = field(default_factory=dict)
    """What the inputs are expected to hold, by field."""
    forecasts: Mapping[str, StepCostEstimate] = field(default_factory=dict)
    """What making the inputs costs, by field: as it was measured of those that are made, else as it is foreseen."""
    outline: ArtifactSpec | None = None
    """What the step's own artifact is expected to hold (`Step.outline`), where that was asked already."""
    stands_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Digests of each input and of the models that it was tuned from, the last tuned first, made or not."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """The `timing.json` of the latest artifact of the same kind in the store, when there is one."""
    paces: Sequence[Mapping[str, Any]] = ()
    """What steps of the same kind measured on this machine in any recipe, the newest first (`tells_of_machine`)."""


def drop_not_hashed(part: Any, settings: Any) -> Any:
    """The settings of a part, or of parts in lists and mappings, without the fields marked `NotHashed`."""
    if isinstance(part, BaseModel) and isinstance(settings, dict):
        fields = type(part).model_fields
        return {
            name: drop_not_hashed(getattr(part, name), value) if name in fields else value
            for name, value in settings.items()
            if name not in fields or not any(isinstance(mark, NotHashed) for mark in fields[name].metadata)
        }
    if isinstance(part, list | tuple) and isinstance(settings, list) and len(part) == len(settings):
        return [drop_not_hashed(entry, value) for entry, value in zip(part, settings, strict=True)]
    if isinstance(part, Mapping) and isinstance(settings, dict):
        return {name: drop_not_hashed(part.get(name), value) for name, value in settings.items()}
    return settings


class Step(Component):
    """Something that makes one artifact from others."""

    role: ClassVar[str] = "step"
    home: ClassVar[str] = "luthier.*.steps"
    makes: ClassVar[str]
    """The kind of the `ArtifactType` of its artifact."""
    shared: ClassVar[bool] = False
    """True when the artifact is kept for all recipes of this user (a converted base model)."""
    checkpoints: ClassVar[tuple[str, ...]] = ()
    """Patterns of files in the scratch folder from which the step goes on, each replaced whole; one that others belong
    to comes first. Behind a URL they are kept in the store while the step is made, so that any machine goes on."""
    tells_of_machine: ClassVar[bool] = False
    """True when what it measures foretells other recipes' steps of this kind on the same machine."""

    on: Annotated[StepExecutor | None, NotHashed()] = None
    """Where the step is made: the kind of an executor, or one with its settings; `luthier run --on` overrides it. In
    the process of the run when not given. It never changes the artifact."""

    @abstractmethod
    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Do the work: read `work.inputs`, write into `work.folder`.

        Returns what differs by nature from one making to the next (rows per second, peak bytes, seconds by phase); it
        is kept in `timing.json`, apart from the artifact's own bytes.
        """

    @property
    def takes_ranks(self) -> bool:
        """Whether several processes of one job can make it: rank 0 makes the artifact, the others `follow`."""
        return False

    def follow(self, work: StepContext) -> None:
        """Compute with rank 0 of this job, which makes the artifact; nothing is written."""

    @abstractmethod
    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Predict cost without loading torch; say how it is known."""

    def describe_training(self, plan_context: PlanContext) -> TrainingWorkload | None:
        """What it trains, to estimate it on other machines; None for a step that trains no network."""
        return None

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """What the artifact will hold, for those who must plan with it before it is made; nothing by default."""
        return ArtifactSpec()

    def list_children(self, steps: Mapping[str, Step]) -> Iterable[Step]:
        """The steps that it may make itself, for a step that drives others, given those that it reads, directly or not.

        Their code and what they read from outside go into its digest; none by default.
        """
        return ()

    def find_training_obstacle(self, artifact: Artifact) -> str:
        """Why the run must not train on the data set that this step examined, given its artifact; empty if it may."""
        return ""

    def measured(self) -> tuple[str, ...] | None:
        """Names of the numbers that a gate's rules may use; None when only the artifact can tell."""
        return None

    @classmethod
    def reads(cls) -> dict[str, Reads]:
        """The fields that name other steps, and what each must be."""
        found: dict[str, Reads] = {}
        for name, info in cls.model_fields.items():
            for mark in info.metadata:
                if isinstance(mark, Reads):
                    found[name] = mark
        return found

    def inputs(self) -> dict[str, Reads]:
        """The same of this very step: a field that its other settings make useless reads nothing."""
        return self.reads()

    def hashed_settings(self) -> dict[str, Any]:
        """The settings that decide the artifact's bytes: all but those marked `NotHashed`, in its parts as well."""
        hashed: dict[str, Any] = drop_not_hashed(self, self.settings())
        return hashed

    @classmethod
    def _beside(cls) -> set[str]:
        """The fields that change nothing in the artifact."""
        return {name for name, info in cls.model_fields.items() if any(isinstance(m, NotHashed) for m in info.metadata)}

    def recipe_digest(self, inputs: Mapping[str, str], contents: Mapping[str, str], seed: int) -> str:
        """Name the artifact: settings, code revision, inputs' digests, contents read, seed."""
        settings = {key: value for key, value in self.hashed_settings().items() if key not in self.reads()}
        return digest_of(
            {"settings": settings, "code": self.code(), "inputs": dict(inputs), "reads": dict(contents), "seed": seed}
        )

    def code(self) -> str:
        """The revision of the code that decides this step's bytes: that of the step and its parts, and all it uses."""
        parts = iter_components(self._without_unhashed())
        return code_revision(*sorted({type(part).__module__ for part in parts}))

    def _without_unhashed(self) -> Self:
        """This step with the defaults of all settings that change nothing in the artifact."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in self._beside()})

    def contents(self, recipe_dir: Path) -> dict[str, str]:
        """Digests of everything that the step's parts read from outside, by role, kind and place; and of the code of
        those that other packages bring."""
        found = {
            f"code.{name}": digest for name, digest in digest_plugin_code(self.model_copy(update={"on": None})).items()
        }
        for part in iter_components(self):
            if (digest := part.fingerprint(recipe_dir)) is not None:
                found[f"{part.role}.{part.kind}.{len(found)}"] = digest
        return found
