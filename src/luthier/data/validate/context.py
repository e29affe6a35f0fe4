"""The rows that checks read, and the families of rows that are copies or derived from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.artifacts.dataset import MADE, DatasetSummary, list_splits, read_split_columns
from luthier.artifacts.media import MediaReader
from luthier.chat.messages import Message, render_message_text
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.messages import gettext_noop
from luthier.data.dedup.shingles import digest8, normalize_for_comparison
from luthier.data.row import MESSAGES, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data.validate.model_scores import PromptPerplexity
    from luthier.models.embeddings.base import Embedder, Points
    from luthier.models.text_classifier import OutOfFoldProbabilities


def family_representatives(rows: Sequence[CheckRow], prompts: Sequence[str]) -> NDArray[np.int64]:
    """(rows,): the place of the row that stands for each row's family, itself where it has none.

    Rows of one text that show and play the same are of one family, and a made row is of that of its first parent, which
    need not be there. A row that nobody made stands for the others, the first of several.
    """
    import numpy as np

    above: dict[str, str] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        shown = " ".join(media.digest for message in row.messages for media in message.media)
        _join(above, f"row {row.id}", f"text {normalize_for_comparison(prompt)}\x1d{shown}")
        if parent := first_parent_id(row):
            _join(above, f"row {row.id}", f"row {parent}")
    families = [_top(above, f"row {row.id}") for row in rows]
    first: dict[str, int] = {}
    for index in sorted(range(len(rows)), key=lambda index: (first_parent_id(rows[index]) is not None, index)):
        first.setdefault(families[index], index)
    return np.array([first[family] for family in families], dtype=np.int64)


def first_parent_id(row: CheckRow) -> str | None:
    """Return the id of the first parent of an augmented row; None for a row that was not made."""
    made = row.meta.get(MADE)
    parents = made.get("parents") if isinstance(made, dict) else None
    return parents[0] if isinstance(parents, list) and parents and isinstance(parents[0], str) else None


def _join(above: dict[str, str], one: str, other: str) -> None:
    top, below = sorted((_top(above, one), _top(above, other)))
    if top != below:
        above[below] = top


def _top(above: dict[str, str], one: str) -> str:
    """What stands for a name; paths are halved on the way, so that they stay short."""
    while (up := above.get(one, one)) != one:
        above[one] = one = above.get(up, up)
    return one


_COLUMNS = ("id", "source", "file", "line", "kind", "messages", "label", "meta", "group")


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One row of the data set."""

    id: str
    split: str
    messages: tuple[Message, ...]
    label: str | None = None
    group: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The text to learn."""
        return self.messages[-1].content

    @property
    def says(self) -> str:
        """The answer with the calls that it makes."""
        return render_message_text(self.messages[-1])

    @property
    def prompt(self) -> str:
        """What stands before the answer, without the system turn."""
        return "\n\n".join(message.content for message in self.messages[:-1] if message.role != "system")

    def saying(self, *, prompt: str | None = None, answer: str | None = None, label: str | None = None) -> CheckRow:
        """The same row with another last question, answer or label; of a class, answer and label are one."""
        turns = list(self.messages)
        if prompt is not None:
            turns[-2] = turns[-2].model_copy(update={"content": prompt})
        if answer is not None or label is not None:
            turns[-1] = turns[-1].model_copy(update={"content": answer if label is None else label})
        return replace(self, messages=tuple(turns), label=self.label if label is None else label)

    def row(self, number: int) -> Row:
        """The same as operators see it."""
        return Row(number, self.id, "", "", number, "chat", self.messages, (), self.meta, self.group)


class CheckData:
    """Rows in the order of their ids, so that nothing depends on the order in which they came."""

    def __init__(
        self,
        rows: Iterable[CheckRow],
        *,
        task: Literal["label", "text"],
        seed: int = 0,
        available: int | None = None,
        model: Artifact | None = None,
        recipe_dir: Path = Path(),
        read_media: Callable[[str], bytes] | None = None,
    ) -> None:
        self.rows: tuple[CheckRow, ...] = tuple(sorted(rows, key=lambda row: row.id))
        self.task = task
        self.seed = seed
        self.available = len(self.rows) if available is None else available
        """Rows of the data set, of which `rows` may be a part."""
        self.model = model
        self.recipe_dir = recipe_dir
        """The recipe's folder, where relative paths start."""
        self.read_media = read_media
        """Gives the bytes of a picture or a sound by its digest; None: they are not at hand."""
        self._points: dict[str, Points] = {}

    @classmethod
    def of(
        cls, artifact: Artifact, limit: int, seed: int, model: Artifact | None = None, recipe_dir: Path = Path()
    ) -> CheckData:
        """Read a data set; of more rows than `limit`, those whose ids hash lowest, which is a draw by content."""
        dataset_summary = DatasetSummary.read(artifact)
        available = sum(dataset_summary.rows.values())
        below = _bound(artifact, limit) if available > limit else None
        rows = (row for split in list_splits(artifact) for row in _read(artifact, split, below))
        return cls(
            rows, task=dataset_summary.task, seed=seed, available=available, model=model, recipe_dir=recipe_dir,
            read_media=MediaReader(artifact).read,
        )  # fmt: skip

    def of_split(self, *names: str) -> list[int]:
        """Places of the rows of some splits."""
        return [index for index, row in enumerate(self.rows) if row.split in names]

    def lacks(self) -> dict[str, str]:
        """What checks may need and these rows do not have, with the reason."""
        found = {}
        if self.task != "label":
            found["labels"] = gettext_noop("answers are free text")
        else:
            found["texts"] = gettext_noop("answers are classes")
        if not self.of_split("test") or not self.of_split("train"):
            found["test"] = gettext_noop("there are no held-out rows beside training rows")
        if self.model is None:
            found["model"] = gettext_noop("the step names no `model`")
        if not any(row.group for row in self.rows):
            found["groups"] = gettext_noop("the source names no `group`")
        return found

    @cached_property
    def prompts(self) -> list[str]:
        """What each row asks; its answer where it asks nothing."""
        return [row.prompt or row.answer for row in self.rows]

    @cached_property
    def labels(self) -> list[str]:
        """The classes, sorted."""
        return sorted({row.label for row in self.rows if row.label is not None})

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(rows,): each row's class as a place in `labels`."""
        import numpy as np

        code_of = {label: index for index, label in enumerate(self.labels)}
        return np.array([code_of[row.label or ""] for row in self.rows], dtype=np.int64)

    @cached_property
    def held(self) -> OutOfFoldProbabilities:
        """What a plain classifier that saw neither the row nor a copy says of it."""
        from luthier.models.text_classifier import predict_texts_out_of_fold

        return predict_texts_out_of_fold(self.prompts, self.codes, seed=self.seed, families=self.heads)

    @cached_property
    def heads(self) -> NDArray[np.int64]:
        """(rows,): the place of the row that stands for each row, its copies and what was made of it."""

        return family_representatives(self.rows, self.prompts)

    def alone(self, split: str) -> list[int]:
        """Places of rows of a split, one of each family there: of copies, the first."""
        found: dict[int, int] = {}
        for index in self.of_split(split):
            head = int(self.heads[index])
            if index == head or head not in found:
                found[head] = index
        return sorted(found.values())

    def points(self, embedder: Embedder) -> Points:
        """Each prompt as a point; checks that ask for the same embedder share them."""
        key = embedder.model_dump_json()
        if key not in self._points:
            self._points[key] = embedder.points(self.prompts, recipe_dir=self.recipe_dir, seed=self.seed)
        return self._points[key]

    @cached_property
    def prompt_perplexity(self) -> PromptPerplexity:
        """How unlikely the model finds each prompt, a token."""
        from luthier.data.validate.model_scores import measure_prompt_perplexity

        assert self.model is not None
        return measure_prompt_perplexity(self.model, self.rows)

    @cached_property
    def states(self) -> NDArray[np.float64]:
        """What the model makes of each prompt."""
        from luthier.data.validate.model_scores import embed_prompts

        if self.model is None:
            hint = "add `model: model` to the step, or set `on: classifier`"
            raise RecipeError(
                "the check reads a model, and the step names none", where=SourceLocation(field="model"), hint=hint
            )
        return embed_prompts(self.model, self.rows)


def _read(artifact: Artifact, split: str, below: int | None) -> Iterable[CheckRow]:
    import json

    for row in read_split_columns(artifact, split, *_COLUMNS):
        if below is None or digest8(row["id"]) <= below:
            messages, meta = MESSAGES.validate_json(row["messages"]), json.loads(row["meta"])
            yield CheckRow(row["id"], split, messages, row["label"], row["group"], meta)


def _bound(artifact: Artifact, limit: int) -> int:
    """The hash up to which a row is taken, so that `limit` rows are."""
    import numpy as np

    hashes: Sequence[int] = [
        digest8(row["id"]) for split in list_splits(artifact) for row in read_split_columns(artifact, split, "id")
    ]
    return int(np.partition(np.array(hashes, dtype=np.uint64), limit - 1)[limit - 1])
