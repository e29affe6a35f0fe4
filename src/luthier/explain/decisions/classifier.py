"""Any model that names labels, as one function from conversations to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from luthier.chat.messages import Message, join_user_turns
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.explain.scorer import build_not_finite_error
from luthier.models.load import get_model_name, get_output_classes, is_endpoint, is_plain_classifier
from luthier.models.sequence_head import REWARD

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.explain.subject import Tools
    from luthier.models.lm.local import LocalLM
    from luthier.models.text_classifier import TextClassifier

Conversation = tuple[tuple[Message, ...], "Tools"]
Dtype = Literal["float32", "bfloat16", "auto"]


class LabelScorer:
    """A model that chooses among labels: by a head, by how likely each label's text is, or as a plain classifier.

    Raises:
        DataError: the data have no labels.
        ModelError: a reward model, or an endpoint, which tells no probabilities.
    """

    def __init__(self, model: Artifact, data: Artifact, dtype: Dtype = "float32") -> None:
        from luthier.explain.diff.compare import find_label_texts

        if is_endpoint(model):
            hint = "take a model whose weights are here (`luthier models list`), or `technique: plain`"
            what = f"{get_model_name(model)} is an endpoint, which tells no probabilities of labels"
            raise ModelError(what, where=SourceLocation(field="model"), hint=hint)
        self.artifact, self._dtype = model, dtype
        classes = get_output_classes(model)
        if classes == (REWARD,):
            what = f"{get_model_name(model)} gives a reward and names no labels"
            raise ModelError(what, where=SourceLocation(field="model"), hint="take a model that was tuned on labels")
        self._options = {} if classes else find_label_texts(data, classes)
        self.labels = classes or tuple(self._options)
        if not self.labels:
            where = SourceLocation(field="data")
            raise DataError("the rows of this data set have no labels", where=where, hint="take data with labels")
        self.texts_read = 0

    @property
    def name(self) -> str:
        """The model's name."""
        return get_model_name(self.artifact)

    def compute_log_scores(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """(conversations, labels) log-scores; their shares are probabilities.

        Raises:
            ModelError: probabilities that are not finite.
        """
        import numpy as np

        self.texts_read += len(conversations)
        if not conversations:
            return np.zeros((0, len(self.labels)))
        scores = np.array(self._score(conversations), dtype=np.float64)
        if not np.isfinite(scores).all():
            raise build_not_finite_error()
        return scores

    def compute_probabilities(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """(conversations, labels) probabilities that add up to 1."""
        import numpy as np

        from luthier.metrics.conformal import normalize_rows

        scores = self.compute_log_scores(conversations)
        return normalize_rows(scores) if len(scores) else np.zeros(scores.shape)

    def _score(self, conversations: Sequence[Conversation]) -> Sequence[Sequence[float]]:
        from luthier.models.lm.base import ChoiceRequest

        if is_plain_classifier(self.artifact):
            texts = [join_user_turns(messages) for messages, _ in conversations]
            return [[row[label] for label in self.labels] for row in self._text_classifier.scores(texts)]
        options = tuple(self._options.values()) or self.labels
        requests = [ChoiceRequest(prompt=messages, options=options, tools=tools) for messages, tools in conversations]
        return [choice.scores or [] for choice in self._lm.choose(requests)]

    @cached_property
    def _text_classifier(self) -> TextClassifier:
        from luthier.models.text_classifier import TextClassifier

        return TextClassifier.open(self.artifact.folder)

    @cached_property
    def _lm(self) -> LocalLM:
        from luthier.models.lm.local import LocalLM

        return LocalLM(self.artifact, self._dtype)
