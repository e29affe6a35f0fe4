"""One prompt search: hold back rows, make candidates, race them and write the best; a killed search resumes to the same
bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.training import TrainingRecord
from luthier.chat.messages import Example, Message, answer_of, answer_text_by_label, user_text_of
from luthier.chat.prompt import PromptPrefix
from luthier.core.component import component_of_kind
from luthier.core.errors import DataError, InputError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json
from luthier.core.step import StepContext
from luthier.metrics.metric import EvalPredictions, Metric
from luthier.models.describe import describe_model_folder
from luthier.models.lm.local import LocalLM
from luthier.models.lm.openai_client import EndpointLM
from luthier.models.load import Dtype, find_base_folder, get_model_name, get_output_classes, is_endpoint
from luthier.tune.prompt_search.candidates import (
    Instruction,
    PromptCandidate,
    combine_candidates,
    draw_balanced_examples,
    example_sets,
    find_shared_instruction,
    is_usable_demonstration,
    list_instructions,
)
from luthier.tune.prompt_search.client import PromptTrialClient
from luthier.tune.prompt_search.cost import endpoint_normalize_error, no_generation_error
from luthier.tune.prompt_search.successive_halving import (
    RoundScore,
    compute_smallest_budget,
    count_asked_rows,
    plan_rounds,
    run_successive_halving,
)

if TYPE_CHECKING:
    from luthier.tune.techniques.prompt_search import PromptSearch

PROPOSED_FROM = 6
"""Number of examples that the model sees when it writes instructions."""
LONGEST = 4
"""Number of rows with the most characters that are tokenized to check whether a prompt fits."""
LONGEST_PROPOSAL = 400
"""Maximum characters of a proposed instruction."""


class PromptSearchRun:
    """One run of the prompt search, which makes a prompted model."""

    def __init__(self, technique: PromptSearch, work: StepContext, examples: Sequence[Example], dtype: Dtype) -> None:
        self._technique, self._work, self._dtype = technique, work, dtype
        self._model = work.inputs["model"]
        if get_output_classes(self._model):
            raise no_generation_error(get_model_name(self._model))
        about = DatasetSummary.read(work.inputs["data"])
        self._labels = about.labels if about.task == "label" else []
        self._held, self._pool = self._split([example for example in examples if example.messages])
        able = sum(map(is_usable_demonstration, self._pool))
        self._shots = technique.shown(len(self._held), able)
        if missing := sorted({*technique.shots} - {*self._shots}):
            work.events.warning(f"there are too few rows to show {missing} examples")
        self._asked = self._done = 0
        self._lengths: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """Run the race and write its files; returns measures."""
        start = time.perf_counter()
        candidates = self._candidates()
        plan = plan_rounds(len(candidates), len(self._held), self._technique.budget)
        self._warn_untried(len(candidates), plan[0].prompts)
        candidates = candidates[: plan[0].prompts]
        lengths = [self._length(candidate) for candidate in candidates]
        rows = " → ".join(f"{planned.prompts} × {planned.rows}" for planned in plan)
        summary = format_counted_noun(len(candidates), "prompt")
        self._work.events.note(f"{summary}, {self._metric.kind} on held-back rows, by round: {rows}")
        self._total = count_asked_rows(plan)
        started = time.perf_counter()
        standings, answers = run_successive_halving(
            plan,
            lambda index, begin, end: self._answer(candidates[index], begin, end),
            self._metric,
            lengths,
            seed=self._work.seed,
        )
        ended = time.perf_counter()
        self._save(candidates, standings, answers, lengths)
        if not self._asked:
            return {}
        size = (
            {}
            if is_endpoint(self._model)
            else {"parameters": describe_model_folder(find_base_folder(self._model)).parameters}
        )
        return {**size, "search_s": ended - start, "scored_rows_per_s": self._asked / (ended - started)}

    def _warn_untried(self, n_candidates: int, n_tried: int) -> None:
        """Warn that the budget leaves out prompts, possibly the user's own instructions."""
        if n_tried < n_candidates:
            budget, enough = self._technique.budget, compute_smallest_budget(n_candidates, len(self._held))
            left = f"{n_candidates - n_tried:,} of {n_candidates:,} prompts, drawn by the seed, are not tried"
            self._work.events.warning(f"{left}: the budget is {budget:,} rows, and {enough:,} would try all")

    def _split(self, examples: list[Example]) -> tuple[list[Example], list[Example]]:
        """Return the held-back rows in a random order, and the others, from which examples are shown."""
        from luthier.tune.training.schedule import permute_examples

        able = [example for example in examples if (example.label is not None if self._labels else answer_of(example))]
        if len(able) < 4:
            have = format_counted_noun(len(able), "training row has", "training rows have")
            what = f"{have} an answer; a search of prompts needs at least 4"
            raise DataError(what, where=SourceLocation(field="data"), hint="give more rows that have one")
        count = min(self._technique.held_back, len(able) // 2)
        if count < self._technique.held_back:
            self._work.events.note(f"{count} rows are held back: half of the {len(able)} that there are")
        drawn = [able[int(at)] for at in permute_examples(self._work.seed, 0, len(able))]
        return drawn[:count], drawn[count:]

    @cached_property
    def _metric(self) -> Metric:
        name = "accuracy" if self._labels else "rougeL"
        metric = self._technique.metric or component_of_kind(Metric, name).model_validate({"kind": name})
        if "label_scores" in metric.needs and not (self._labels and self._client.scores):
            where, hint = SourceLocation(field="technique.metric"), "take accuracy, rougeL or exact_match"
            raise InputError(f"{metric.kind} needs scores of labels, which there are none of", where=where, hint=hint)
        return metric

    @cached_property
    def _client(self) -> PromptTrialClient:
        options = answer_text_by_label(self._labels, [*self._pool, *self._held])
        limit, alike = self._technique.max_new_tokens, self._technique.normalize
        if is_endpoint(self._model):
            if alike != "sum":
                raise endpoint_normalize_error()
            return PromptTrialClient(EndpointLM.of(self._model, self._work.scratch / "calls"), options, limit)
        import torch

        from luthier.models.cost import count_cores

        torch.set_num_threads(count_cores())
        return PromptTrialClient(LocalLM(self._model, self._dtype), options, limit, alike)

    def _candidates(self) -> list[PromptCandidate]:
        """Return all prompts to try, without those that exceed the model's context."""
        technique, seed = self._technique, self._work.seed
        own = find_shared_instruction([*self._pool, *self._held])
        option_texts = list(self._client.options.values())
        all_instructions = (
            list_instructions(technique.instructions, own, option_texts, vary=technique.variations)
            + self._propose_instructions()
        )
        sets = example_sets(
            self._pool, self._held, self._shots, draws=technique.draws, nearest=technique.nearest, seed=seed
        )
        candidates = combine_candidates(PromptPrefix.of(self._model), all_instructions, sets)
        return [
            candidates[0],
            *(candidate for candidate in self._shuffle(candidates[1:]) if self._fits_context(candidate)),
        ]

    def _shuffle(self, candidates: Sequence[PromptCandidate]) -> list[PromptCandidate]:
        """Return candidates in a random order, so that a small budget tries some of every kind."""
        import random

        return random.Random(f"{self._work.seed}/candidates").sample(candidates, len(candidates))

    def _fits_context(self, candidate: PromptCandidate) -> bool:
        length, most = self._length(candidate), self._client.context
        if most is None or length <= most:
            return True
        self._work.events.warning(f"not tried: {candidate.name}; {length} tokens, and the model reads {most}")
        return False

    def _length(self, candidate: PromptCandidate) -> int:
        """Return the length of the longest rows with a prompt."""
        key = candidate.prompt.digest
        if key not in self._lengths:
            longest = sorted(self._held, key=lambda example: len(user_text_of(example)))[-LONGEST:]
            self._lengths[key] = self._client.length(candidate.prompt, longest)
        return self._lengths[key]

    def _propose_instructions(self) -> list[Instruction]:
        """Return instructions that the model writes itself after seeing examples."""
        if not self._technique.proposals:
            return []
        examples = draw_balanced_examples(self._pool, min(PROPOSED_FROM, len(self._pool)), self._work.seed, 0)
        examples_text = "\n\n".join(
            f"Question: {user_text_of(example)}\nAnswer: {answer_of(example)}" for example in examples
        )
        words = f"{examples_text}\n\nWhich instruction makes somebody answer like this? Write the instruction only."
        messages = [Message(role="user", content=words)]
        written = self._client.write(messages, self._technique.proposals, self._work.seed)
        lines = [next((line.strip(" \"'*") for line in entry.splitlines() if line.strip()), "") for entry in written]
        kept = [line for line in lines if 0 < len(line) <= LONGEST_PROPOSAL]
        self._work.events.note(f"the model wrote {len(kept)} instructions that can be used, of {len(lines)}")
        return [Instruction(line, "written by the model") for line in kept]

    def _answer(self, candidate: PromptCandidate, begin: int, end: int) -> EvalPredictions:
        """Return a prompt's answers to some held-back rows; those of an earlier attempt are read from disk."""
        path = self._work.scratch / "answers" / f"{candidate.prompt.digest}-{begin}-{end}.json"
        if not path.is_file():
            answers = self._client.answer(candidate.prompt, self._held[begin:end])
            write_atomically(path, canonical_json([answers.predictions, answers.label_scores]).encode())
            self._asked += end - begin
        self._done += end - begin
        self._work.events.progress(self._done, self._total, "rows", prompt=candidate.name)
        predictions, scores = json.loads(path.read_text(encoding="utf-8"))
        return EvalPredictions.of(predictions, self._client.references(self._held[begin:end]), label_scores=scores)

    def _save(
        self,
        candidates: Sequence[PromptCandidate],
        standings: Sequence[RoundScore],
        answers: Mapping[int, EvalPredictions],
        lengths: Sequence[int],
    ) -> None:
        folder, last = self._work.folder, standings[-1].round
        final = [standing for standing in standings if standing.round == last]
        best = candidates[final[0].prompt_index]
        best.prompt.save(folder)
        why = self._explain_winner(final, answers)
        self._work.events.note(f"chosen: {best.name}; {why}")
        if self._labels and len(predictions := {*answers[final[0].prompt_index].predictions}) == 1:
            same = f"the chosen prompt is answered with {predictions.pop()!r} on every held-back row"
            self._work.events.warning(f"{same}, whatever is asked; {self._against_one_label()}")
        record = {
            "technique": self._technique.settings(),
            "objective": self._metric.kind,
            "base": get_model_name(self._model),
            "rows": len(self._held) + len(self._pool),
            "held_back": len(self._held),
            "prompts": len(candidates),
            "scored_rows": sum(self._asked_rows(standings).values()),
            "trainable_parameters": 0,
            "prompt": best.name,
            "prompt_why": why,
        }
        TrainingRecord.model_validate(record).write(folder)
        lines = [
            _line(standing, candidates[standing.prompt_index], lengths[standing.prompt_index]) for standing in standings
        ]
        write_atomically(folder / "search.jsonl", "".join(f"{canonical_json(line)}\n" for line in lines).encode())
        self._write_learnt(candidates, standings)

    def _explain_winner(self, final: Sequence[RoundScore], answers: Mapping[int, EvalPredictions]) -> str:
        """Compare the winner's score with that of the current prompt, on the same rows."""
        from luthier.metrics.paired import compare_paired

        best, metric = final[0], self._metric
        sentence = f"{metric.kind} {_interval(best)} on {best.rows} held-back rows"
        if best.prompt_index == 0:
            return f"{sentence}, which no other prompt surpassed"
        before = next(round_score for round_score in final if round_score.prompt_index == 0)
        comparison = compare_paired(metric, answers[best.prompt_index], answers[0], seed=self._work.seed)
        interval = f"{comparison.low:+.3f} to {comparison.high:+.3f}"
        change = f"difference {comparison.difference:+.3f}, {interval}, p {comparison.p:.2g}"
        return (
            f"{sentence}, against {_interval(before)} as it was ({change}); the best of several looks better than it is"
        )

    def _against_one_label(self) -> str:
        """Suggest what to try where a prompt is always answered with one label."""
        ways = ["metric: macro_f1"] if self._metric.kind == "accuracy" else []
        if self._technique.normalize != "prior" and not is_endpoint(self._model):
            ways.append("normalize: prior")
        return f"try {' or '.join(ways) or 'other instructions'}"

    def _asked_rows(self, standings: Sequence[RoundScore]) -> dict[int, int]:
        """Return how many held-back rows each prompt answered in the end."""
        return {standing.prompt_index: standing.rows for standing in standings}

    def _write_learnt(self, candidates: Sequence[PromptCandidate], standings: Sequence[RoundScore]) -> None:
        """Write, for each row, how many prompts were scored on it or showed it."""
        import polars

        rows = self._asked_rows(standings).values()
        counts = [(example, sum(index < request for request in rows)) for index, example in enumerate(self._held)]
        counts += [(example, sum(example.id in other.examples for other in candidates)) for example in self._pool]
        table = [
            {"id": example.id, "seen": count, "tokens": self._client.tokens(example), "learnt": 0, "cut": False}
            for example, count in counts
        ]
        polars.DataFrame(table).write_parquet(self._work.folder / "training_examples.parquet")


def _line(standing: RoundScore, candidate: PromptCandidate, length: int) -> dict[str, Any]:
    """Return a prompt's score in a round, as a line of `search.jsonl`."""
    score = standing.score
    return {
        "round": standing.round,
        "candidate": standing.prompt_index,
        "instruction": candidate.prompt.instruction,
        "origin": candidate.origin,
        "examples": list(candidate.examples),
        "how": candidate.how,
        "length": length,
        "rows": standing.rows,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "goes_on": standing.goes_on,
    }


def _interval(standing: RoundScore) -> str:
    score = standing.score
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
