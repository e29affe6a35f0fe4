"""A technique says what of a model changes, what that costs before anything runs, and how the result is written."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.step import Forecast, Merging, Outlook, Work
from luthier.models.describe import Description
from luthier.models.load import Dtype

if TYPE_CHECKING:
    import torch

    from luthier.models.pack import Pack
    from luthier.text.messages import Example

HIDDEN_OF_EVIDENCE = 2000
"""Width at which the learning rates below were found; see `rate_for_width`."""
WIDTH_POWER = 0.781
"""How the best rate falls with width, for the Llama family (Schulman et al., "LoRA Without Regret", 2025)."""


class Rate(NamedTuple):
    """A learning rate and why it was chosen."""

    value: float
    why: str


class Choice(NamedTuple):
    """What a search may try for one field: bounds (on a log scale or not), or a list of values."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Any, ...] = ()


class AnyTechnique(Component):
    """What every technique tells: a technique of weights (`Technique`), or of words (`Search`)."""

    role: ClassVar[str] = "technique"
    home: ClassVar[str] = "luthier.tune.techniques"
    merging: ClassVar[Merging] = "plain"
    """How what is learnt can be merged into the model's weights."""

    def merges(self, model: Description | None) -> Merging:
        """How what is learnt on a model can be merged into its weights; None: a model that is not here yet."""
        return self.merging

    def refuses(self, objective: str, model: Description) -> str:
        """Why this technique cannot go with an objective or a model; empty when it can."""
        return ""

    def remark(self, model: Description) -> str:
        """What people should know before this model is tuned so; empty when there is nothing to say."""
        return ""

    def before_s(self, model: Description) -> float:
        """Seconds that are foreseen for what it does before the first step, besides what every technique does."""
        return 0.0

    @abstractmethod
    def trainable(self, model: Description) -> int:
        """How many numbers will move."""

    @abstractmethod
    def footprint(self, model: Description, tokens: int) -> int:
        """Bytes of memory at the peak, for packs of `tokens`."""

    @abstractmethod
    def space(self) -> Mapping[str, Choice]:
        """What a search may turn, by field (the step's `learning_rate` included)."""


class Technique(AnyTechnique):
    """Which weights of a model move, and what is kept of them."""

    def open(self, artifact: Artifact, dtype: torch.dtype) -> Any:
        """The model to make trainable: whole and plain, earlier adapters merged into it."""
        from luthier.models.load import open_merged

        return open_merged(artifact, dtype)

    @abstractmethod
    def adapt(self, model: Any, seed: int) -> Any:
        """Make a model trainable: what moves requires gradients, and new weights come from the seed alone."""

    def begin(self, model: Any, packs: Iterator[Pack]) -> None:
        """Set new weights from the first packs of the course; called once after `adapt`, before the first update.

        Must follow from the model and the packs alone, and take no more packs than it needs.
        """

    def rate_of(self, name: str) -> float:
        """Factor on the learning rate for the parameter of this name."""
        return 1.0

    @abstractmethod
    def rate(self, hidden_size: int) -> Rate:
        """The learning rate to use when none is given."""

    @abstractmethod
    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write what was trained, in a format that others read; the same weights make the same bytes.

        `base` is the folder of the model that was tuned, `name` what people call it.
        """


class Search(AnyTechnique):
    """What stands in front of a model's conversations, chosen by measured score; no weight moves."""

    used: ClassVar[frozenset[str]] = frozenset({"data", "model", "technique", "rows", "precision"})
    """The step's settings that matter here; any other one would change nothing, and is refused."""

    @abstractmethod
    def search(self, work: Work, examples: Sequence[Example], dtype: Dtype) -> dict[str, Any]:
        """Choose from the training rows, and write `prompt.json`, `tuned.json`, `search.jsonl` and `learnt.parquet`.

        Returns what differs by nature from one making to the next.
        """

    @abstractmethod
    def foresee(self, outlook: Outlook, rows: int | None) -> Forecast:
        """Predict the cost; `rows` is how many training rows may be used at most."""


def rate_for_width(best: float, hidden_size: int) -> float:
    """The best rate at a width of 2,000, carried over to another width; three significant digits."""
    return float(f"{best * (HIDDEN_OF_EVIDENCE / hidden_size) ** WIDTH_POWER:.3g}")


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """JSON with sorted keys, as every artifact holds it."""
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
