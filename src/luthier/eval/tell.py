"""Questions of tasks and probes put to a model on this machine: prompts that questions share are read once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, cast

from luthier.eval.question import Likelihood, Question, Reading, Told, Writing, until

if TYPE_CHECKING:
    from luthier.models.beginnings import Beginnings
    from luthier.models.decoder import Stop
    from luthier.models.load import Loaded
    from luthier.text.ids import Text
    from luthier.text.plain import Pair

DIGITS = 6
TAIL = 24
"""Tokens at the end of what is being written in which an end of it is looked for."""


def tell(loaded: Loaded, text: Text, questions: Sequence[Question], kept: Beginnings | None = None) -> list[Told]:
    """One answer to each; all are of one kind. `kept`: what prompts began with, for the next call."""
    match questions[0]:
        case Likelihood():
            return _likelihoods(loaded, text, cast("Sequence[Likelihood]", questions), kept)
        case Reading():
            return _readings(loaded, text, cast("Sequence[Reading]", questions))
        case Writing():
            return _writings(loaded, text, cast("Sequence[Writing]", questions))


def _likelihoods(loaded: Loaded, text: Text, questions: Sequence[Likelihood], kept: Beginnings | None) -> list[Told]:
    from luthier.models.likelihood import likelihoods

    asked = _pairs(text, questions, context(loaded))
    greedy = any(one.greedy for one in questions)
    found = likelihoods(loaded.model, [pair[:2] for pair in asked], greedy=greedy, kept=kept)
    return [
        Told(logprob=round(one.logprob, DIGITS), tokens=one.tokens, greedy=one.greedy, cut=pair.cut)
        for one, pair in zip(found, asked, strict=True)
    ]


def _pairs(text: Text, questions: Sequence[Likelihood], limit: int) -> list[Pair]:
    """Ids of prompts and answers, in the order of the questions."""
    from luthier.text.plain import Pair, pairs

    found: list[Pair] = []
    for prompt, run in groupby(questions, key=lambda one: one.prompt):
        answers = [one.answer for one in run]
        if isinstance(prompt, str):
            found += pairs(text, [(prompt, answer) for answer in answers], limit)
        else:
            before, after = text.options(prompt, answers)
            found += [Pair(before[cut:], ids, cut) for ids in after for cut in [_over(before, ids, limit)]]
    return found


def _over(before: Sequence[int], after: Sequence[int], limit: int) -> int:
    return max(0, min(len(before) - 1, len(before) + len(after) - limit - 1))


def _readings(loaded: Loaded, text: Text, questions: Sequence[Reading]) -> list[Told]:
    from luthier.models.likelihood import likelihoods
    from luthier.text.plain import windows

    parts = [windows(text, one.text, context(loaded)) for one in questions]
    found = iter(likelihoods(loaded.model, [pair[:2] for own in parts for pair in own]))
    sums = [[next(found) for _ in own] for own in parts]
    return [
        Told(logprob=round(sum(one.logprob for one in own), DIGITS), tokens=sum(one.tokens for one in own))
        for own in sums
    ]


def _writings(loaded: Loaded, text: Text, questions: Sequence[Writing]) -> list[Told]:
    """Questions that are to be answered in the same manner are answered together."""
    told: dict[int, Told] = {}
    manners: dict[tuple[object, ...], list[int]] = {}
    for at, one in enumerate(questions):
        manners.setdefault((one.limit, one.until, one.temperature, one.top_p, type(one.prompt)), []).append(at)
    for places in manners.values():
        told |= dict(zip(places, _written(loaded, text, [questions[at] for at in places]), strict=True))
    return [told[at] for at in range(len(questions))]


def _written(loaded: Loaded, text: Text, questions: Sequence[Writing]) -> list[Told]:
    from luthier.models.decoder import Sampling
    from luthier.models.generate import generate

    how = questions[0]
    prompts = _prompts(text, [one.prompt for one in questions])
    cuts = [max(0, len(ids) + how.limit - context(loaded)) for ids in prompts]
    ends = text.end_ids
    written = generate(
        loaded,
        [ids[cut:] for ids, cut in zip(prompts, cuts, strict=True)],
        how.limit,
        _stop(text, how.until),
        sampling=Sampling(temperature=how.temperature, top_p=how.top_p),
    )
    found = []
    for ids, cut in zip(written, cuts, strict=True):
        said = text.decode([one for one in ids if one not in ends], special=False)
        finished = (bool(ids) and ids[-1] in ends) or until(said, how.until) != said
        found.append(Told(text=until(said, how.until), tokens=len(ids), finished=finished, cut=cut))
    return found


def _prompts(text: Text, prompts: Sequence[object]) -> list[list[int]]:
    from luthier.text.plain import plain_ids

    if isinstance(prompts[0], str):
        return plain_ids(text, cast("Sequence[str]", prompts))
    return text.prompts(prompts)  # type: ignore[arg-type]  # one kind of prompt at a time


def _stop(text: Text, ends: tuple[str, ...]) -> Stop:
    """Where writing stops: at an end token, or where what was written last holds one of the ends."""
    if not ends:
        return text.end_ids
    return lambda ids: ids[-1] in text.end_ids or until(text.decode(ids[-TAIL:]), ends) != text.decode(ids[-TAIL:])


def context(loaded: Loaded) -> int:
    """How many tokens the model reads at once."""
    config = loaded.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)
