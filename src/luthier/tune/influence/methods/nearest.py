"""The baseline of influence methods: the rows most similar to the query."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.tune.influence.method import Engine, EngineSettings, InfluenceMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from luthier.models.packing.pack import TokenRow
    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.steps.tune import Tune


class Nearest(InfluenceMethod):
    """How like a row is to what is asked: cosines of TF-IDF, or of the tuned model's own states.

    It knows nothing of learning, and is hard to beat where rows that are alike teach the same. A method that is no
    better than this one is not worth its cost.
    """

    kind: Literal["nearest"] = "nearest"
    in_nats: ClassVar[bool] = False

    by: Literal["tfidf", "embeddings"] = "tfidf"
    """Shared words weighted by TF-IDF, or the mean of the hidden states from which the tuned model predicts each
    trained token."""

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """Return one pass where the model reads the rows."""
        return 1.0 if self.by == "embeddings" else 0.0

    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """Return (queries, rows) cosine similarities."""
        import torch

        questions = [query.rows for query in study.queries]
        rows = [study.dataset.rows(number) for number in range(len(study.keys))]
        if self.by == "tfidf":
            return _compare_words(study, questions, rows)
        study.open_state(study.kept_steps[-1])
        question_rows, known = (torch.stack([_mean_state(study, own) for own in some]) for some in (questions, rows))
        return torch.nn.functional.normalize(question_rows) @ torch.nn.functional.normalize(known).T


def _compare_words(
    study: InfluenceStudy, question_rows: Sequence[Sequence[TokenRow]], rows: Sequence[Sequence[TokenRow]]
) -> Tensor:
    import torch
    from sklearn.feature_extraction.text import TfidfVectorizer

    text = study.text
    words = [[text.decode(row.ids, special=False) for row in own[:1]] for own in rows]
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    known = vectorizer.fit_transform(" ".join(own) for own in words)
    similarities = []
    for query in question_rows:
        vectors = vectorizer.transform([text.decode(row.ids, special=False) for row in query])
        similarities.append(torch.from_numpy((vectors @ known.T).toarray().mean(0)))
    return torch.stack(similarities)


def _mean_state(study: InfluenceStudy, rows: Sequence[TokenRow]) -> Tensor:
    """Return the mean (width,) of the hidden states that predict the trained tokens."""
    import torch

    from luthier.models.packing.logprobs import compute_pack_states, disable_dropout

    with torch.no_grad(), disable_dropout(study.reader.model):
        states = [compute_pack_states(study.reader.model, pack) for pack in study.reader.build_packs(rows)]
    return torch.cat(states).double().mean(0).cpu()
