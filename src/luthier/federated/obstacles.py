"""Training settings that are not supported in a federation, checked by the plan and again by every site."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.federated.aggregator import Aggregator
from luthier.federated.personal.part import PersonalPart
from luthier.federated.privacy import FederatedPrivacy
from luthier.federated.secure_aggregation.dropout_masks import check_least
from luthier.federated.secure_aggregation.masks import LEAST_SITES
from luthier.federated.transport import Transport
from luthier.tune.policy import PolicyObjective
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import StandaloneTechnique

REFUSED = {
    "model": "name the model in the step's own `model`",
    "teacher": "sites have no teacher's weights",
    "reward_model": "sites have no reward model's weights",
    "gold_model": "sites have no reward model's weights",
    "save_epochs": "the weights after a round are those of all sites",
    "privacy": "write `privacy` of the step itself, which holds over all rounds",
    "seed": "set the recipe's `seed`",
    "validation": "evaluate the model that the federation makes",
    "ema": "an average over steps does not outlive a round; average by `server`",
    "resume_from": "every round begins with the weights of all sites",
    "keep_trunk": "a round is no trunk of a longer training",
    "report_to": "what a site may report to, only the site says",
    "processes": "what a site computes with, only the site says",
    "on": "where a site computes, only the site says",
}
"""Settings of a training that mean nothing inside a federation, with what to do instead."""
LENGTH = {
    "epochs": "write `local: {epochs: …}`, the epochs of one round",
    "max_steps": "write `local: {steps: …}`, the steps of one round",
}
"""Settings that the rounds decide."""


def find_refused_setting(tune: Tune, *, length: bool) -> str:
    """Return why a setting is not supported in a federation; empty when all are. `length`: include those that rounds
    determine.
    """
    for name, instead in {**REFUSED, **(LENGTH if length else {})}.items():
        if getattr(tune, name) != type(tune).model_fields[name].get_default(call_default_factory=True):
            return f"tune.{name} has no place in a federation: {instead}"
    return ""


def find_federation_obstacle(
    tune: Tune,
    aggregator: Aggregator,
    rounds: int,
    personal: PersonalPart | None = None,
    privacy: FederatedPrivacy | None = None,
) -> str:
    """Return why a training cannot be federated this way; empty when it can."""
    technique, objective = tune.technique, tune.objective
    if isinstance(technique, StandaloneTechnique):
        return f"{technique.kind} trains no weights that sites could add up; take lora or full"
    start = technique.settings().get("init_lora_weights", "default")
    policy = objective if isinstance(objective, PolicyObjective) else None
    rewards = () if policy is None else (*policy.rewards, *policy.gold)
    unfit = aggregator.refuses(technique) if personal is None else personal.find_sum_obstacle(tune, aggregator)
    if personal is not None and (why := personal.find_obstacle(tune, aggregator, privacy)):
        return why
    obstacles = {
        "eva begins with directions of each site's own rows, which the others do not have; leave it out": start
        == "eva",
        f"{start} takes directions out of the base at each site anew, and bits differ; leave it out": (
            start in ("pissa", "olora")
        ),
        f"{objective.kind} needs a teacher, whose weights sites do not have": objective.needs_teacher,
        "the reward `model` needs weights that sites do not have; take a reward that is computed": any(
            reward.needs_model for reward in rewards
        ),
        f"`sum: {aggregator.kind}` cannot add up what sites train: {unfit}": bool(unfit),
        f"{aggregator.kind} adds to the base's weights, which qlora keeps in few bits; take ffa or alternate": (
            technique.kind == "qlora" and not aggregator.linear and aggregator.exact
        ),
        "alternate trains B in one round and A in the next, so it needs two rounds; take ffa": (
            aggregator.kind == "alternate" and rounds < 2
        ),
    }
    return next((reason for reason, holds in obstacles.items() if holds), "")


def find_sites_obstacle(sites: Sequence[str], transport: Transport | None) -> str:
    """Return why recipe steps, or remote sites, cannot be the sites; empty when they can."""
    if (transport is not None and transport.remote) == bool(sites):
        if sites:
            return "sites elsewhere bring their own rows; leave `sites` out"
        return "name the steps whose data sets are the `sites`, or a transport to sites elsewhere"
    twice = next((name for name in sites if sites.count(name) > 1), None)
    return f"{twice!r} is named twice in `sites`" if twice else ""


def find_answers_obstacle(number: int, least: int | None, *, secure: bool) -> str:
    """Return why this number of sites cannot answer queries by counts, masked or not; empty when they can."""
    if secure and number < LEAST_SITES:
        return f"of {number} sites each knows the others from the sum; masks need {LEAST_SITES} or more"
    if least is not None and least > number:
        return f"there are {number} sites, and `least` is {least}"
    if secure and least is not None and (why := check_least(number, least)):
        return f"{why}; leave `least` out to wait for all of them"
    return ""
