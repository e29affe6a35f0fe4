"""Compares two things of the same kind: evaluations, data sets, or files of predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import InputError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.recipe.locate import ArtifactRef, CommandTarget, find_artifact, find_plan


@dataclass(frozen=True, kw_only=True)
class TwoWayComparison:
    """The result of comparing two evaluations, prediction files or data sets."""

    facts: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """The comparison for a person."""
        if "identical" in self.facts:
            yield f"both are the same {self.facts['identical']}: nothing can differ"
        if "comparisons" in self.facts:
            yield f"{format_counted_noun(self.facts['rows'], 'row')} that both have; differences are A minus B"
            for row in self.facts["comparisons"]:
                yield _difference(row)
            for name in ("fixed", "broken"):
                if self.facts.get(name):
                    yield f"{name}: {', '.join(self.facts[name][:10])}"
            return
        for name, value in self.facts.get("counts", {}).items():
            yield f"{name:<12} {value}"
            details = {"lost": "lost_because", "moved": "moved"}.get(name, "")
            for what, found in self.facts.get(details, {}).items():
                yield f"  {what}: {found if isinstance(found, int) else len(found)}"


@dataclass(frozen=True, kw_only=True)
class ManyWayComparison(TwoWayComparison):
    """The result of comparing one target with several others."""

    def lines(self) -> Iterator[str]:
        """One paragraph for each of the others."""
        yield f"{self.facts['first']} minus each of the others; p is corrected for all comparisons together"
        for other, found in self.facts["others"].items():
            yield f"minus {other}, {format_counted_noun(found['rows'], 'row')} that both have"
            for row in found["comparisons"]:
                yield f"  {_difference(row)}"
            flips = [f"{name} {len(found[name])}" for name in ("fixed", "broken") if found.get(name)]
            if flips:
                yield f"  rows (as far as listed): {', '.join(flips)}"


def _difference(row: dict[str, Any]) -> str:
    p = row.get("p_holm", row["p"])
    sure = "clear of zero" if row["low"] > 0 or row["high"] < 0 else "not clear of zero"
    interval = f"({row['low']:+.4f} to {row['high']:+.4f}; {sure}"
    power = f"; smallest detectable difference: {row['detectable']:.4f}" if "detectable" in row else ""
    return f"{row['metric']:<14} {row['difference']:+.4f} {interval}; p {p:.2g} by {row['test']}{power})"


def compare_targets(targets: Sequence[CommandTarget], metrics: Sequence[str] = ()) -> TwoWayComparison:
    """Two things, or the first against each of the others."""
    if len(targets) < 2:
        hint = "name two; PATH=VALUE belongs to the recipe before it"
        raise InputError(
            "expected two things to compare, got one", where=SourceLocation(field=str(targets[0])), hint=hint
        )
    first, *command_targets = targets
    return (
        compare_two(first, command_targets[0], metrics)
        if len(command_targets) == 1
        else compare_many(first, command_targets, metrics)
    )


def compare_many(
    first: CommandTarget, others: Sequence[CommandTarget], metrics: Sequence[str] = ()
) -> TwoWayComparison:
    """The first against each of the others, on the rows that both have; Holm's correction goes over all of them."""
    from luthier.metrics.paired import adjust_holm

    words = [str(other) for other in others]
    if twice := next((word for word in words if word == str(first) or words.count(word) > 1), None):
        raise InputError("is named twice", where=SourceLocation(field=twice), hint="name each once")
    found = {str(other): compare_two(first, other, metrics).facts for other in others}
    if unlike := next((word for word, facts in found.items() if "comparisons" not in facts), None):
        hint = "compare them two by two"
        raise InputError("is a data set: only two of them are compared", where=SourceLocation(field=unlike), hint=hint)
    rows = [row for facts in found.values() for row in facts["comparisons"]]
    for row, p in zip(rows, adjust_holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return ManyWayComparison(facts={"first": str(first), "others": found})


def compare_two(one: CommandTarget, other: CommandTarget, metrics: Sequence[str] = ()) -> TwoWayComparison:
    """Compare files of predictions (in the named metrics), or artifacts named by recipe, RECIPE:STEP, run or digest."""
    targets = one, other
    first, second = (target.word or "" for target in targets)
    if all(word.endswith((".jsonl", ".json")) for word in (first, second)):
        from luthier.metrics.files import compare_prediction_files

        same = {"identical": "file"} if one.path.resolve() == other.path.resolve() else {}
        return TwoWayComparison(facts={**compare_prediction_files(one.path, other.path, metrics), **same})
    if metrics:
        hint = "leave --metric out: evaluations are compared in the metrics that they were made with"
        raise InputError("is for two files of predictions", where=SourceLocation(field="--metric"), hint=hint)
    for word in (first, second):
        if word.endswith((".jsonl", ".json")):
            what = f"is a file of predictions, and {second if word == first else first} is not"
            raise InputError(
                what, where=SourceLocation(file=word), hint="compare two files, or two steps as RECIPE:STEP"
            )
    a, b = map(find_comparable_artifact, targets)
    kinds = a.artifact.manifest.makes, b.artifact.manifest.makes
    same = {"identical": "artifact"} if a.artifact.digest == b.artifact.digest else {}
    if kinds == ("evaluation", "evaluation"):
        from luthier.eval.comparison import compare_evaluations

        return TwoWayComparison(facts={**compare_evaluations(a.artifact, b.artifact), **same})
    if kinds == ("dataset", "dataset"):
        from luthier.data.history.compare import compare_datasets as compare_data

        comparison = compare_data(a.artifact, b.artifact)
        return TwoWayComparison(facts={**comparison.model_dump(mode="json"), "counts": comparison.counts(), **same})
    message = f"expected two evaluations, two data sets or two files of predictions; got a {kinds[0]} and a {kinds[1]}"
    raise InputError(
        message, where=SourceLocation(field=f"{first} {second}"), hint="name steps of the same kind, as RECIPE:STEP"
    )


def find_comparable_artifact(target: CommandTarget) -> ArtifactRef:
    """Find an artifact by its name; a whole recipe, or a run, means its evaluation."""
    word = target.word or ""
    if not target.is_recipe:
        return find_artifact(target)
    if target.path.is_file() and not word.endswith((".yaml", ".yml")):
        hint = "name a recipe, RECIPE:STEP, a run, a digest, or two files of predictions that end in .jsonl"
        raise InputError("cannot be compared", where=SourceLocation(file=word), hint=hint)
    recipe_plan = find_plan(target)
    names = [planned.name for planned in recipe_plan if planned.step.makes == "evaluation"]
    if not names:
        raise InputError(
            "this recipe measures nothing", where=SourceLocation(file=word), hint="name a step: RECIPE:STEP"
        )
    return ArtifactRef(recipe_plan.artifact(names[0], target.command), recipe_plan, names[0])
