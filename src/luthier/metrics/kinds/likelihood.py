"""Likelihood metrics of the references: perplexity and bits per byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.metric import EvalPredictions, Metric, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class Perplexity(Metric):
    """exp of the mean negative log-likelihood a token; comparable only between models with the same tokens."""

    kind: Literal["perplexity"] = "perplexity"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (1.0, float("inf"))
    usual: ClassVar[tuple[float, float]] = (1.0, 2.0)
    needs: ClassVar[frozenset[Need]] = frozenset({"logprobs"})

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        if answers.tokens is None or min(answers.tokens) < 1:
            raise DataError("perplexity needs the number of tokens of each row", where=SourceLocation(field="tokens"))
        return np.stack([negative_log_likelihoods(answers), np.array(answers.tokens, dtype=np.float64)], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        surprise = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
        return np.exp(np.minimum(surprise, 700.0))  # e^700 is near the greatest float


class BitsPerByte(Metric):
    """Bits of surprise for each byte of the references (UTF-8): comparable between models with different tokens."""

    kind: Literal["bits_per_byte"] = "bits_per_byte"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    needs: ClassVar[frozenset[Need]] = frozenset({"logprobs"})
    single_reference: ClassVar[bool] = True

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        sizes = [len(text.encode("utf-8", "surrogatepass")) for (text,) in answers.references]
        return np.stack([negative_log_likelihoods(answers), np.array(sizes, dtype=np.float64)], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        bits: NDArray[np.float64] = sums[:, 0] / np.log(2)
        return np.divide(bits, sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)

    def undefined(self, answers: EvalPredictions) -> str:
        return "" if any(text for (text,) in answers.references) else "the references have no byte"


def negative_log_likelihoods(answers: EvalPredictions) -> NDArray[np.float64]:
    """Negative log-likelihoods in nats, (rows,)."""
    import numpy as np

    if max(answers.logprobs or ()) > 0:
        raise DataError("a log-likelihood is above 0", where=SourceLocation(field="logprobs"))
    return np.asarray(-np.array(answers.logprobs, dtype=np.float64))
