"""Compare a tuned model with its base on rows: what `kind: model_diff` and `luthier explain --show changes` report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.artifacts.model_diff import (
    TOKENS,
    AnswerChange,
    LayerChange,
    MatrixChange,
    ModelDiff,
    SpanDivergence,
    TokenDivergence,
)
from luthier.chat.messages import Example, ExampleOrigin, Message, answer_of, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.events import format_counted_noun
from luthier.explain.diff.answers import PairedAnswer, answer_rows, find_telling_words, measure_answer_changes
from luthier.explain.diff.divergence import PairReadings, find_settled_layers, read_pair
from luthier.explain.diff.pair import ModelPair
from luthier.explain.diff.weights import list_adapter_changes, list_parameter_changes, measure_weight_changes
from luthier.explain.measures import compute_mean, exact_measure
from luthier.models.load import get_model_name

if TYPE_CHECKING:
    from luthier.artifacts.explanation import MeasureOverRows
    from luthier.chat.messages import Example
    from luthier.models.packing.pack import TokenRow


TOP_TOKENS, TOP_SPANS, SHOWN_MATRICES, SHOWN_ANSWERS, SHOWN_WORDS = 20, 8, 20, 20, 20
_CONTEXT = 12
_NAMED_TOKENS = 3
_CERTAIN = 0.05


@dataclass(frozen=True)
class ComparedRows:
    """The rows on which two models are compared."""

    examples: Sequence[Example]
    options: dict[str, str]
    """The text of each label, for a language model that chooses among labels."""
    prompts: Sequence[str] = ()
    """Further questions that both models answer."""
    max_new_tokens: int = 64


@dataclass(frozen=True)
class ModelComparison:
    """The result: a summary, and one number of each kind for every answer token."""

    summary: ModelDiff
    columns: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `model_diff.json` and `tokens.parquet`."""
        import polars

        self.summary.write(folder)
        polars.DataFrame(self.columns).write_parquet(folder / TOKENS)


def compare_models(
    pair: ModelPair,
    compared: ComparedRows,
    *,
    matrices: int = 12,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ModelComparison:
    """Read, answer and take apart.

    Raises:
        DataError: no row has an answer that both models can read whole.
        ModelError: weights, states or probabilities that are not finite.
    """
    skipped: Counter[str] = Counter()
    examples, rows = _read_rows(pair, compared.examples, skipped)
    if not rows:
        reasons = "; ".join(skipped) or "there are no rows"
        raise DataError(f"no row could be compared: {reasons}", hint="take another split")
    readings = read_pair(
        pair.model, pair.base, rows, pair.use_base, comparable=pair.comparable, progress=progress
    )  # fmt: skip
    found, layers, total, decomposed = _compare_weights(pair, matrices)
    answers = _answer(pair, compared) if pair.comparable else []
    labelled = bool(compared.options or pair.after.classes)
    kl = readings.tokens.kl
    identical = not found and pair.comparable and not kl.any() and pair.before.before == pair.after.before
    measures = _measure(readings, answers, total, found, identical=identical, labelled=labelled, seed=seed)
    texts = _Texts(pair, examples, rows)
    summary = ModelDiff(
        model=pair.after.name,
        digest=pair.after.artifact.digest,
        base=get_model_name(pair.before.artifact),
        base_digest=pair.before.artifact.digest,
        identical=identical,
        rows=len(rows),
        tokens=len(kl),
        notes=(*pair.notes, *_notes(pair, readings, found, len(rows))),
        skipped=dict(sorted(skipped.items())),
        measures=measures,
        top_tokens=_top_tokens(readings, texts) if pair.comparable else (),
        top_spans=_top_spans(readings, texts) if pair.comparable else (),
        layers=_layers(readings, layers, seed, identical=identical),
        lens_layer_before=_median_layer(readings.lens.first_before) if readings.lens else None,
        lens_layer_after=_median_layer(readings.lens.first_after) if readings.lens else None,
        matrices=tuple(found[:SHOWN_MATRICES]),
        decomposed=decomposed,
        answered=len(answers),
        changed=tuple(_change(answer) for answer in answers if answer.changed)[:SHOWN_ANSWERS],
        transitions=_transitions(answers) if labelled else {},
        words=tuple(find_telling_words(answers, written=not labelled)[:SHOWN_WORDS]),
        sentence="",
    )
    return ModelComparison(summary.model_copy(update={"sentence": _summarize(summary)}), _columns(readings, texts))


def _read_rows(
    pair: ModelPair, examples: Sequence[Example], skipped: Counter[str]
) -> tuple[list[Example], list[tuple[TokenRow, TokenRow]]]:
    """The rows that both models can read whole, as each reads them: the same answer after its own prompt."""
    from luthier.models.packing.pack import TokenRow

    kept, rows = list[Example](), list[tuple[TokenRow, TokenRow]]()
    headed = bool(pair.after.classes or pair.before.classes)
    for number, example in enumerate(examples):
        both = []
        for lm in (pair.after, pair.before):
            messages = lm.before.wrap(prompt_of(example))
            if headed:
                prompt, answer = lm.text.prompt(messages, example.tools), [0]
            else:
                prompt, (answer,) = lm.text.options(messages, [answer_of(example)], example.tools)
            both.append(TokenRow([*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer), str(number)))
        if not headed and not answer_of(example).strip():
            skipped["the row has no answer"] += 1
        elif any(len(row.ids) > lm.context for row, lm in zip(both, (pair.after, pair.before), strict=True)):
            skipped["the row is longer than what the model reads at once"] += 1
        else:
            kept.append(example)
            rows.append((both[0], both[1]))
    return kept, rows


def _compare_weights(pair: ModelPair, matrices: int) -> tuple[list[MatrixChange], Any, float, int]:
    if pair.shared == "same":
        return [], {}, 0.0, 0
    if pair.shared == "adapter":
        changes = list_adapter_changes(pair.model)
    else:
        from luthier.models.sequence_head import unwrap_peft_model

        one, other = (unwrap_peft_model(model) for model in (pair.model, pair.base))
        if pair.model is not one or pair.base is not other:
            return [], {}, 0.0, 0
        changes = list_parameter_changes(one, other)
    return measure_weight_changes(changes, decompose=matrices, head=_name_directions(pair))


def _name_directions(pair: ModelPair) -> Callable[[Any], Sequence[str]] | None:
    """Return the tokens that a direction of the hidden state promotes, and those that it suppresses."""
    from luthier.models.sequence_head import ends_in_sequence_head, unwrap_peft_model

    inner = unwrap_peft_model(pair.model)
    if ends_in_sequence_head(inner) or (head := inner.get_output_embeddings()) is None:
        return None

    def name(direction: Any) -> list[str]:
        scores = head.weight.detach().float() @ direction.float()
        ids = [*scores.topk(_NAMED_TOKENS).indices.tolist(), *(-scores).topk(_NAMED_TOKENS).indices.tolist()]
        return [pair.after.text.decode([id_]) for id_ in ids]

    return name


def _answer(pair: ModelPair, compared: ComparedRows) -> list[PairedAnswer]:
    answers = answer_rows(pair, compared.examples, compared.options, max_new_tokens=compared.max_new_tokens)
    if compared.prompts and not pair.after.classes:
        questions = [
            Example(
                id="",
                origin=ExampleOrigin(source="prompts", file="", line=0),
                kind="chat",
                messages=(Message(role="user", content=text),),
            )
            for text in compared.prompts
        ]
        answers += answer_rows(pair, questions, {}, max_new_tokens=compared.max_new_tokens)
    return answers


def _measure(
    readings: PairReadings,
    answers: Sequence[PairedAnswer],
    weights: float,
    matrices: Sequence[MatrixChange],
    *,
    identical: bool,
    labelled: bool,
    seed: int,
) -> dict[str, MeasureOverRows]:
    rows = len(readings.counts)
    if identical:
        zero = {"kl": exact_measure(0.0, rows), "hidden": exact_measure(0.0, rows), "weights": exact_measure(0.0)}
        return zero | ({"changed": exact_measure(0.0, len(answers))} if answers else {})
    found: dict[str, MeasureOverRows] = {"weights": exact_measure(weights)}
    counts = readings.counts.astype(float).tolist()
    if not np.isnan(readings.tokens.kl).any():
        sums = np.bincount(readings.tokens.row, readings.tokens.kl, minlength=rows)
        found["kl"] = _above_zero(compute_mean(sums.tolist(), seed, counts))
    if readings.distance.shape[1]:
        found["hidden"] = _above_zero(compute_mean(readings.distance[:, -1].tolist(), seed, counts))
    ranks = [matrix.effective_rank for matrix in matrices if matrix.effective_rank is not None]
    if ranks:
        found["effective_rank"] = exact_measure(sum(ranks) / len(ranks))
    intruders = [matrix.intruders for matrix in matrices if matrix.intruders is not None]
    if intruders:
        found["intruders"] = exact_measure(sum(intruders) / len(intruders))
    own = [answer for answer in answers if answer.row]
    return found | measure_answer_changes(own if labelled else answers, labelled=labelled, seed=seed)


def _above_zero(measure: MeasureOverRows) -> MeasureOverRows:
    """A measure that is never below zero."""
    return measure.model_copy(update={"low": max(0.0, measure.low)})


class _Texts:
    """Tokens as they read."""

    def __init__(self, pair: ModelPair, examples: Sequence[Example], rows: Sequence[tuple[TokenRow, TokenRow]]) -> None:
        self._text, self._classes = pair.after.text, pair.after.classes
        self._rows = [row for row, _ in rows]
        self.ids = [example.id for example in examples]
        self._prompts = [len(row.ids) - len(row.targets) for row in self._rows]

    def token(self, id_: int) -> str:
        """A token, or the name of a class."""
        return self._classes[id_] if self._classes else self._text.decode([int(id_)])

    def decode_context(self, row: int, position: int) -> str:
        """The end of what stands before an answer's token."""
        end = self._prompts[row] + position
        return self._text.decode(list(self._rows[row].ids[max(0, end - _CONTEXT) : end]))

    def span(self, row: int, start: int, end: int) -> str:
        """A stretch of an answer."""
        if self._classes:
            return self.decode_context(row, 0)
        begin = self._prompts[row]
        return self._text.decode(list(self._rows[row].ids[begin + start : begin + end]))


def _top_tokens(readings: PairReadings, texts: _Texts) -> tuple[TokenDivergence, ...]:
    tokens = readings.tokens
    order = np.argsort(-tokens.kl, kind="stable")[:TOP_TOKENS]
    return tuple(
        TokenDivergence(
            row=texts.ids[tokens.row[at]],
            context=texts.decode_context(int(tokens.row[at]), int(tokens.position[at])),
            token=texts.token(int(tokens.token[at])),
            kl=float(tokens.kl[at]),
            probability_before=float(np.exp(tokens.logprob_before[at])),
            probability_after=float(np.exp(tokens.logprob_after[at])),
            top_before=texts.token(int(tokens.top_before[at])),
            top_after=texts.token(int(tokens.top_after[at])),
        )
        for at in order
        if tokens.kl[at] > 0
    )


def _top_spans(readings: PairReadings, texts: _Texts) -> tuple[SpanDivergence, ...]:
    """The span of each row whose divergence exceeds the mean the most, of the rows in which that is the most."""
    kl, mean, begin = readings.tokens.kl, float(readings.tokens.kl.mean()), 0
    spans = []
    for row, count in enumerate(readings.counts.tolist()):
        own = kl[begin : begin + count]
        begin += count
        excess, start, end = find_greatest_span((own - mean).tolist())
        if excess > 0:
            spans.append((excess, row, start, end, float(own[start:end].sum())))
    spans.sort(key=lambda span: (-span[0], span[1]))
    return tuple(
        SpanDivergence(row=texts.ids[row], text=texts.span(row, start, end), tokens=end - start, kl=total)
        for _, row, start, end, total in spans[:TOP_SPANS]
    )


def find_greatest_span(values: Sequence[float]) -> tuple[float, int, int]:
    """The sum, start and end of the stretch with the greatest sum (Kadane's algorithm)."""
    best, here, start = (0.0, 0, 0), 0.0, 0
    for at, value in enumerate(values):
        if here <= 0:
            here, start = 0.0, at
        here += value
        if here > best[0]:
            best = (here, start, at + 1)
    return best


def _layers(
    readings: PairReadings, weights: dict[int, float], seed: int, *, identical: bool
) -> tuple[LayerChange, ...]:
    counts = readings.counts.astype(float).tolist()
    total = readings.counts.sum()
    lens = readings.lens
    found = []
    for layer in range(readings.distance.shape[1]):
        values = readings.distance[:, layer].tolist()
        distance = (
            exact_measure(0.0, len(values)) if identical or not any(values) else compute_mean(values, seed, counts)
        )
        found.append(
            LayerChange(
                layer=layer,
                distance=_above_zero(distance),
                cosine=float(min(1.0, readings.cosine[:, layer].sum() / total)),
                weights=weights.get(layer),
                lens_before=float(lens.first_before[:, layer].mean()) if lens else None,
                lens_after=float(lens.first_after[:, layer].mean()) if lens else None,
            )
        )
    return tuple(found)


def _median_layer(first: Any) -> float | None:
    settled = find_settled_layers(first)
    return float(np.median(settled)) if settled else None


def _change(answer: PairedAnswer) -> AnswerChange:
    return AnswerChange(**{name: value for name, value in answer._asdict().items() if name != "length"})


def _transitions(answers: Sequence[PairedAnswer]) -> dict[str, int]:
    counts = Counter(f"{answer.before} → {answer.after}" for answer in answers if answer.changed and answer.row)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _notes(pair: ModelPair, readings: PairReadings, matrices: Sequence[MatrixChange], rows: int) -> list[str]:
    notes = []
    if rows == 1:
        notes.append("There is one row: its interval says what one row can, which is little")
    if pair.shared == "same":
        notes.append("Both models have the same weights: only what stands in front of a conversation differs")
    elif not matrices and pair.shared == "adapter":
        notes.append("The adapter stands beside the weights, or is zero: no weight matrix changed")
    elif not matrices and pair.shared == "none" and pair.model is not pair.base:
        notes.append("No weight differs in the parameters that both models have")
    if pair.comparable and readings.lens is None:
        notes.append("The last norm or the head was not understood: no logit lens")
    if not readings.distance.shape[1]:
        notes.append("The layers of the two models do not correspond: no drift of hidden states")
    return notes


def _columns(readings: PairReadings, texts: _Texts) -> dict[str, Any]:
    tokens = readings.tokens
    return {
        "row": [texts.ids[row] for row in tokens.row],
        "position": tokens.position,
        "token": [texts.token(int(token)) for token in tokens.token],
        "kl": tokens.kl,
        "logprob_before": tokens.logprob_before,
        "logprob_after": tokens.logprob_after,
    }


def _summarize(diff: ModelDiff) -> str:
    """Describe the changes."""
    over = f"over {format_counted_noun(diff.rows, 'row')}"
    if diff.identical:
        return f"{diff.model} and {diff.base} are identical {over}: no weight and no answer token differs."
    parts = []
    if kl := diff.measures.get("kl"):
        parts.append(
            f"it is {kl.value:.3g} nats a token from {diff.base} (95 % interval {kl.low:.3g} to {kl.high:.3g})"
        )
    if changed := diff.measures.get("changed"):
        parts.append(f"{100 * changed.value:.0f} % of {changed.rows} answers changed")
    if (words := diff.measures.get("words")) and (words.low > 0 or words.high < 0):
        parts.append(f"answers have {abs(words.value):.1f} words {'more' if words.value > 0 else 'fewer'}")
    if fixed := diff.measures.get("fixed"):
        parts.append(f"{100 * fixed.value:+.0f} points are right")
    if diff.layers:
        last = max(diff.layers, key=lambda layer: layer.distance.value)
        parts.append(f"hidden states moved the most at layer {last.layer}, by {100 * last.distance.value:.0f} %")
    if telling := [f"“{word.word}”" for word in diff.words if word.p_holm < _CERTAIN][:3]:
        parts.append(f"telling words are {', '.join(telling)}")
    text = "; ".join(parts) or "weights were compared alone"
    return f"{diff.model} {over}: {text}."


def read_compared_rows(
    data: Artifact,
    classes: Sequence[str],
    *,
    split: str,
    limit: int,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 64,
) -> ComparedRows:
    """Rows of a data set's split, evenly from the first to the last."""
    from luthier.artifacts.dataset import read_evenly_spaced_examples

    rows: list[Example] = read_evenly_spaced_examples(data, split, limit)
    return ComparedRows(rows, find_label_texts(data, classes), prompts, max_new_tokens)


def find_label_texts(data: Artifact, classes: Sequence[str]) -> dict[str, str]:
    """Return a language model's text for each label of a data set; empty for a classification head, or free-text
    answers.
    """
    from luthier.artifacts.dataset import DatasetSummary, has_split, read_examples
    from luthier.chat.messages import answer_text_by_label

    about = DatasetSummary.read(data)
    if about.task != "label" or classes:
        return {}
    trained = read_examples(data, "train") if has_split(data, "train") else ()
    return answer_text_by_label(about.labels, trained)
