"""Surrogate rules of a classifier: a small decision tree over words, fitted to the model's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.artifacts.decisions import DecisionRule, SurrogateSummary
from luthier.artifacts.explanation import MeasureOverRows
from luthier.chat.messages import prompt_of, user_text_of
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.explain.measures import compute_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.core.artifact import Artifact
    from luthier.explain.decisions.classifier import LabelScorer

FEATURES = 2000
"""Words and runs of words that rules can speak of: those that tell the most of the labels."""
FOLDS = 5
_FEWEST = 10
_WORD = r"(?u)\b\w+\b"


class SurrogateSettings(NamedTuple):
    """Size of the tree."""

    leaves: int = 16
    """Rules at most."""
    least_rows: int = 5
    """Minimum rows of a rule."""
    least_share: float = 0.9
    """A rule counts where the model gives its label to at least this share of them."""
    words: int = 2
    """Longest run of words that a rule can speak of."""


USUAL_SURROGATE = SurrogateSettings()


class TextsWithLabels(NamedTuple):
    """Texts and the model's label of each."""

    texts: Sequence[str]
    labels: Sequence[str]


def fit_surrogate(
    model: tuple[str, str],
    trained: TextsWithLabels,
    held_out: TextsWithLabels,
    settings: SurrogateSettings = USUAL_SURROGATE,
    *,
    seed: int = 0,
) -> SurrogateSummary:
    """Fit rules to the model's labels of some texts, and measure their fidelity on others.

    Raises:
        DataError: too few texts, or texts without a common word.
    """
    names = sorted({*trained.labels})
    if len(trained.texts) < _FEWEST or not held_out.texts:
        raise DataError(
            f"{format_counted_noun(len(trained.texts), 'text')} to learn from and {len(held_out.texts)} to measure on "
            "are too few for rules",
            hint="raise `limit`, or hold more rows out",
        )
    majority = Counter(trained.labels).most_common(1)[0][0]
    if len(names) == 1:
        leaves = [_Leaf(0, (), (), majority)]
        into = np.zeros(len(trained.texts), dtype=np.int64), np.zeros(len(held_out.texts), dtype=np.int64)
    else:
        vectorizer, tree = _fit(trained, settings, seed)
        leaves = _list_leaves(tree, vectorizer)
        into = _apply(tree, vectorizer, trained.texts), _apply(tree, vectorizer, held_out.texts)
    labels = np.array(trained.labels), np.array(held_out.labels)
    rules = [
        _describe_rule(leaf, (labels[0][into[0] == leaf.number], labels[1][into[1] == leaf.number])) for leaf in leaves
    ]
    sure = {leaf.number for leaf, rule in zip(leaves, rules, strict=True) if rule.trained_share >= settings.least_share}
    labels_of = {leaf.number: rule.label for leaf, rule in zip(leaves, rules, strict=True)}
    right = np.array([labels_of[int(leaf)] == label for leaf, label in zip(into[1], held_out.labels, strict=True)])
    covered = np.array([leaf in sure for leaf in into[1]])
    order = sorted(zip(leaves, rules, strict=True), key=lambda pair: (-pair[1].rows, pair[1].condition))
    summary = SurrogateSummary(
        model=model[0],
        digest=model[1],
        rows=len(right),
        sentence="",
        measures=_measure(right, covered, np.array([label == majority for label in held_out.labels])),
        trained_rows=len(trained.texts),
        least_share=settings.least_share,
        rules=tuple(rule for leaf, rule in order if leaf.number in sure),
        others=tuple(rule for leaf, rule in order if leaf.number not in sure),
        majority=majority,
        notes=(f"The model says “{majority}” of every text that rules were learnt from",) if len(names) == 1 else (),
    )
    return summary.model_copy(update={"sentence": _summarize(summary)})


def read_labelled_texts(model: LabelScorer, data: Artifact, split: str, limit: int) -> TextsWithLabels:
    """Texts of a split, evenly from the first to the last, with the label that a model gives each."""
    from luthier.artifacts.dataset import has_split, read_evenly_spaced_examples

    rows = read_evenly_spaced_examples(data, split, limit) if has_split(data, split) else []
    scores = model.compute_log_scores([(prompt_of(row), row.tools) for row in rows])
    return TextsWithLabels([user_text_of(row) for row in rows], [model.labels[at] for at in scores.argmax(1)])


def _measure(
    right: NDArray[np.bool_], covered: NDArray[np.bool_], majority: NDArray[np.bool_]
) -> dict[str, MeasureOverRows]:
    from luthier.metrics.paired import bonett_price_interval

    rows = len(right)
    found = {"coverage": compute_share(int(covered.sum()), rows)}
    if covered.any():
        found["fidelity"] = compute_share(int(right[covered].sum()), int(covered.sum()))
    found["overall"] = compute_share(int(right.sum()), rows)
    gain = bonett_price_interval(int((right & ~majority).sum()), int((majority & ~right).sum()), rows)
    found["gain"] = MeasureOverRows(value=gain.value, low=gain.low, high=gain.high, rows=rows)
    return found


def _fit(trained: TextsWithLabels, settings: SurrogateSettings, seed: int) -> tuple[Any, Any]:
    """Words that tell labels apart, and a tree over whether a text has them; as many leaves as cross-validation finds
    to be worth it."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.feature_selection import chi2
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    how = {"binary": True, "ngram_range": (1, settings.words), "token_pattern": _WORD}
    vectorizer = CountVectorizer(min_df=2, **how)
    try:
        features = vectorizer.fit_transform(trained.texts)
    except ValueError as error:
        what = "no word stands in two of the texts: there is no rule to learn"
        raise DataError(what, hint="take longer texts") from error
    scores_of_words, _ = chi2(features, trained.labels)
    best = np.sort(np.argsort(-np.nan_to_num(scores_of_words), kind="stable")[:FEATURES])
    vectorizer = CountVectorizer(vocabulary=vectorizer.get_feature_names_out()[best].tolist(), **how)
    features = vectorizer.transform(trained.texts)

    def build(leaves: int) -> Any:
        return DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=settings.least_rows, random_state=seed)

    sizes = sorted({2, *(2**power for power in range(1, 12) if 2**power < settings.leaves), settings.leaves})
    split = KFold(FOLDS, shuffle=True, random_state=seed)
    scores = {leaves: cross_val_score(build(leaves), features, trained.labels, cv=split) for leaves in sizes}
    top = max(sizes, key=lambda leaves: scores[leaves].mean())
    enough = scores[top].mean() - scores[top].std(ddof=1) / np.sqrt(FOLDS)  # one standard error (Breiman)
    chosen = next(leaves for leaves in sizes if scores[leaves].mean() >= enough)
    return vectorizer, build(chosen).fit(features, trained.labels)


def _apply(tree: Any, vectorizer: Any, texts: Sequence[str]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = tree.apply(vectorizer.transform(texts))
    return found


class _Leaf(NamedTuple):
    number: int
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    label: str


def _list_leaves(tree: Any, vectorizer: Any) -> list[_Leaf]:
    """The leaves, with the words on the way to each."""
    names, inner = vectorizer.get_feature_names_out(), tree.tree_

    def walk(node: int, has: tuple[str, ...], lacks: tuple[str, ...]) -> Iterator[_Leaf]:
        if inner.children_left[node] == inner.children_right[node]:
            yield _Leaf(node, has, lacks, str(tree.classes_[inner.value[node][0].argmax()]))
            return
        word = str(names[inner.feature[node]])
        yield from walk(inner.children_left[node], has, (*lacks, word))
        yield from walk(inner.children_right[node], (*has, word), lacks)

    return list(walk(0, (), ()))


def _describe_rule(leaf: _Leaf, named: tuple[NDArray[np.str_], NDArray[np.str_]]) -> DecisionRule:
    trained, held_out = (int((labels == leaf.label).sum()) for labels in named)
    return DecisionRule(
        has=leaf.has,
        lacks=leaf.lacks,
        label=leaf.label,
        trained_rows=len(named[0]),
        trained_share=trained / len(named[0]),
        rows=len(named[1]),
        fidelity=compute_share(held_out, len(named[1])) if len(named[1]) else None,
    )


def _summarize(summary: SurrogateSummary) -> str:
    coverage, gain = summary.measures["coverage"], summary.measures["gain"]
    count = format_counted_noun(len(summary.rules), "rule")
    if (fidelity := summary.measures.get("fidelity")) is None:
        return (
            f"No rule holds for any of {format_counted_noun(summary.rows, 'row')}: words alone do not tell the labels."
        )
    one = len(summary.rules) == 1
    text = (
        f"{count} {'speaks' if one else 'speak'} for {coverage.value:.0%} of "
        f"{format_counted_noun(summary.rows, 'row')} and {'says' if one else 'say'} the same as "
        f"{summary.model} of {fidelity.value:.1%} of them (95 % interval {fidelity.low:.1%} to {fidelity.high:.1%})"
    )
    if gain.low <= 0:
        text += f"; that is NOT clearly more than always saying “{summary.majority}”"
    return f"{text}."
