"""Cost of explanation steps, from earlier ones."""

from __future__ import annotations

from luthier.core.step import PlanContext, StepCostEstimate


def estimate_from_history(plan_context: PlanContext, rows: int, done: str) -> StepCostEstimate:
    """Estimate the seconds for `rows` rows from an earlier step of this kind."""
    history = plan_context.history
    measured, seconds = (history.get("measures") or {}).get("rows"), history.get("seconds")
    if not measured or not seconds:
        return StepCostEstimate(how="unknown until such a step has run here")
    return StepCostEstimate(seconds=seconds * rows / measured, how=f"from {measured} rows that were {done} here")


def refuse_endpoint(plan_context: PlanContext) -> None:
    """`ModelError` where the planned model is behind an endpoint, which tells no probabilities of labels."""
    from luthier.models.load import is_remote_input, no_weights_error

    if is_remote_input(plan_context):
        raise no_weights_error("the model")
