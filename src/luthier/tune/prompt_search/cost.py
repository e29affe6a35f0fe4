"""The cost of a prompt search, predicted before it runs: tokens, and time on this machine or calls to an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import InputError, ModelError, SourceLocation
from luthier.core.step import PlanContext, StepCostEstimate
from luthier.models.cost import (
    ABOUT,
    BASE_BYTES,
    RowEstimate,
    describe_step_model,
    estimate_kernel_cache_bytes,
    estimate_rows,
    find_model_speed,
    has_sequence_head,
)
from luthier.models.describe import ModelDescription
from luthier.models.load import cpu_has_bf16, has_network, is_remote_input, no_network_error
from luthier.tune.prompt_search.candidates import FRAMES

if TYPE_CHECKING:
    from luthier.tune.techniques.prompt_search import PromptSearch

PACK_TOKENS = 4096
"""Tokens of a pack."""
START_S = 10.0


def estimate_cost(technique: PromptSearch, plan_context: PlanContext, requested: int | None) -> StepCostEstimate:
    """Estimate seconds, peak bytes and tokens of a search; for an endpoint, tokens and calls."""
    _check(technique, plan_context)
    rows = estimate_rows(requested, plan_context)
    if rows is None:
        return StepCostEstimate(how="unknown until the data are here")
    held = min(technique.held_back, rows.number // 2)
    if plan_context.inputs.get("data") is not None:
        technique = technique.model_copy(update={"shots": technique.shown(held, rows.number - held)})
    scored = _count_scored_rows(technique, rows.number)
    shown = _mean_examples_shown(technique) * rows.tokens
    tokens = round(scored * (rows.tokens + shown))
    if is_remote_input(plan_context):
        calls = scored + technique.proposals
        return StepCostEstimate(tokens=tokens, how=f"at most {calls:,} calls to an endpoint; {rows.how}")
    model = describe_step_model(plan_context)
    if model is None:
        return StepCostEstimate(tokens=tokens, how="unknown until the model is here")
    kernels = estimate_kernel_cache_bytes(scored, model, bf16=cpu_has_bf16(), learns=False)
    peak = technique.footprint(model, PACK_TOKENS) + BASE_BYTES + kernels
    if rate := _measure_rate(plan_context, model):
        how = f"{scored:,} rows at {rate:.1f} a second, as in the last search"
        return StepCostEstimate(seconds=START_S + scored / rate, peak_bytes=peak, tokens=tokens, how=how)
    flops = 2 * scored * _computed(technique, rows) * (model.parameters - model.embedding_parameters)
    speed = find_model_speed(plan_context, model, bf16=cpu_has_bf16())
    seconds = START_S + flops / speed.flops_per_s
    how = f"{scored:,} scored rows; {rows.how}; speed {speed.how}"
    return StepCostEstimate(seconds=round(seconds, 1), peak_bytes=peak, tokens=tokens, how=how)


def _check(technique: PromptSearch, plan_context: PlanContext) -> None:
    """Refuse a model that cannot generate, and settings without effect on an endpoint."""
    if not has_network(plan_context):
        raise no_network_error("the model")
    if has_sequence_head(plan_context):
        raise no_generation_error("this model")
    if is_remote_input(plan_context) and technique.normalize != "sum":
        raise endpoint_normalize_error()


def no_generation_error(name: str) -> ModelError:
    """Build the error for a model with a sequence head, which cannot be prompted."""
    what = f"{name} names classes by a head of its own, and writes no answer to a prompt"
    return ModelError(what, where=SourceLocation(field="model"), hint="search with the model that it was tuned from")


def endpoint_normalize_error() -> InputError:
    """Build the error for `normalize` with an endpoint, which gives no scores to normalize."""
    return InputError(
        "changes nothing for an endpoint", where=SourceLocation(field="technique.normalize"), hint="leave it out"
    )


def _measure_rate(plan_context: PlanContext, model: ModelDescription) -> float:
    """Return the rows a second of the last search with a model of about this size, scaled to this one's; 0 where there
    was none.
    """
    for measures in (plan_context.history.get("measures") or {}, *plan_context.paces):
        times = float(measures.get("parameters", 0.0)) / model.parameters
        if 1 / ABOUT <= times <= ABOUT and measures.get("scored_rows_per_s"):
            return times * float(measures["scored_rows_per_s"])
    return 0.0


def _count_scored_rows(technique: PromptSearch, rows: int) -> int:
    """Return the maximum number of scored rows: no more than all held-back rows for every prompt, where the budget is
    larger.
    """
    own = 1 + len(technique.instructions)
    n_instructions = own + technique.variations * (own * len(FRAMES) + 2) + technique.proposals
    prompts = 1 + n_instructions * sum(number for number, _ in _sets(technique))
    return min(technique.budget, prompts * min(technique.held_back, rows // 2))


def _mean_examples_shown(technique: PromptSearch) -> float:
    """Return the mean number of examples in a prompt."""
    sets = _sets(technique)
    return sum(number * count for number, count in sets) / sum(number for number, _ in sets)


def _sets(technique: PromptSearch) -> list[tuple[int, int]]:
    """Return the number of example sets for each count, and the count."""
    return [(1 if count == 0 else technique.draws + technique.nearest, count) for count in technique.shots]


def _computed(technique: PromptSearch, rows: RowEstimate) -> float:
    """Return the tokens computed for a row: its own, and its share of a prompt, which each pack of rows reads once."""
    own = max(rows.tokens - rows.shared, 1.0)
    prompt = rows.shared + _mean_examples_shown(technique) * own
    packed = max(1.0, min(16.0, (PACK_TOKENS - prompt) / own))
    return own + prompt / packed
