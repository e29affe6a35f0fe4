"""Pixels or mel bands with logistic regression: a baseline for images and audio without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.chat.media_codec import decode_audio, decode_image
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.eval.baseline import Baseline
from luthier.eval.baselines.classifiers import MajorityBaseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.messages import Example, Media

_MOST_ROWS = 20_000
"""Rows that it learns from at most, evenly drawn."""
_WINDOW = 512
_FLOOR = 1e-5


class MediaBaseline(Baseline):
    """Gray pixels of a small picture, or energies in mel bands over parts of a sound, with logistic regression.

    It looks at the first picture and the first sound of each row, and reads no text.
    """

    kind: Literal["media"] = "media"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = gettext_noop("pixels and mel bands with logistic regression")

    side: int = Field(default=24, ge=2, le=128)
    """Pixels of a picture in width and height, after it was made smaller."""
    bands: int = Field(default=20, ge=2, le=128)
    """Mel bands of a sound."""
    parts: int = Field(default=12, ge=1, le=200)
    """Parts of a sound's time, in each of which the energy of a band is a feature."""
    c: float = Field(default=1.0, gt=0)
    """Inverse strength of regularization."""

    @classmethod
    def suits(cls, task: HeldOutTask) -> bool:
        """Return whether rows have readable media."""
        shown = any(message.media for example in task.examples for message in example.messages)
        return cls.can(task) and shown and task.read_media is not None

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """Learn from what the training rows show and play, and name the class of the task's."""
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        examples = [example for example in train if example.label is not None]
        examples = examples[:: -(-len(examples) // _MOST_ROWS) or 1]
        labels = [str(example.label) for example in examples]
        if task.read_media is None or len(set(labels)) < 2:
            return MajorityBaseline().answer(train, task)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=500))
        model.fit(self._features(examples, task.read_media), labels)
        found = model.predict_proba(self._features(task.examples, task.read_media))
        columns = {label: at for at, label in enumerate(model.classes_)}
        scores = np.full((len(found), len(task.labels)), 1e-6)
        for at, label in enumerate(task.labels):
            if label in columns:
                scores[:, at] = np.maximum(found[:, columns[label]], 1e-6)
        logs = np.log(scores / scores.sum(axis=1, keepdims=True))
        return [Reply.of_scores(dict(zip(task.labels, map(float, row), strict=True))) for row in logs]

    def _features(self, examples: Sequence[Example], read: Callable[[str], bytes]) -> NDArray[np.float64]:
        import numpy as np

        known: dict[str, NDArray[Any]] = {}
        return np.stack([np.concatenate(self._of_row(example, read, known)) for example in examples])

    def _of_row(
        self, example: Example, read: Callable[[str], bytes], known: dict[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Return the features of a row's first image and first clip; empty for missing ones."""
        import numpy as np

        found = []
        for kind, size in (("image", self.side**2), ("audio", self.bands * self.parts)):
            media = next((one for turn in example.messages for one in turn.media if one.kind == kind), None)
            if media is not None and media.digest not in known:
                known[media.digest] = self._describe(media, read)
            found.append(np.zeros(size) if media is None else known[media.digest])
        return found

    def _describe(self, media: Media, read: Callable[[str], bytes]) -> NDArray[np.float64]:
        import numpy as np

        try:
            content = read(media.digest)
            if media.kind == "image":
                gray = decode_image(content).convert("L").resize((self.side, self.side))
                return np.asarray(gray, np.float64).reshape(-1) / 255
            return _mel_energies(*decode_audio(content), self.bands, self.parts).reshape(-1)
        except DataError:
            return np.zeros(self.side**2 if media.kind == "image" else self.bands * self.parts)


def _mel_energies(samples: NDArray[np.float32], rate: int, bands: int, parts: int) -> NDArray[np.float64]:
    """(parts, bands): logarithms of the energies, less their mean, so that loudness does not count."""
    import numpy as np

    padded = np.concatenate([samples, np.zeros(_WINDOW, np.float32)])
    begins = np.linspace(0, max(0, len(samples) - 1), 4 * parts).astype(int)
    frames = np.stack([padded[begin : begin + _WINDOW] for begin in begins]) * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(_WINDOW, 1 / rate) / 700)
    edges = np.linspace(0, mel[-1], bands + 2)
    centers, width = edges[1:-1], edges[1] - edges[0]
    weights = np.maximum(0, 1 - np.abs(mel[None] - centers[:, None]) / width)
    energies = power @ weights.T
    means = energies.reshape(parts, 4, bands).mean(axis=1)
    logs: NDArray[np.float64] = np.log(means + _FLOOR * max(float(means.max()), 1e-12))
    centered: NDArray[np.float64] = logs - logs.mean()
    return centered
