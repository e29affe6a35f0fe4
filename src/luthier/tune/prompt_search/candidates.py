"""Candidates of a prompt search: instructions, sets of few-shot examples, and every pair of the two.

Nothing here needs a model. Draws follow from the seed alone, sets of examples are balanced by class, and the nearest
set is the one closest to the held-back questions by TF-IDF.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from luthier.chat.messages import Example, Message, user_text_of
from luthier.chat.prompt import PromptPrefix

FRAMES = (
    ("{instruction}\n\n{answer}", "with the answers listed"),
    ("{instruction} Give only the answer, nothing else.", "asking for the answer only"),
    ("Read carefully before you answer.\n\n{instruction}", "asking to read carefully"),
)
"""Ways to rephrase an instruction; `{answer}` describes the possible answers, and a frame is dropped where there is
nothing to say."""
LISTED = 100
"""More labels than this are not listed in an instruction."""
NEAREST = "the nearest"


class Instruction(NamedTuple):
    """A system message to try, and its origin."""

    text: str | None
    """The system prompt; None: each row keeps its own."""
    origin: str


class ExampleSet(NamedTuple):
    """A set of few-shot examples to try, and how it was chosen."""

    examples: tuple[Example, ...]
    how: str


@dataclass(frozen=True, kw_only=True)
class PromptCandidate:
    """A prompt to try."""

    prompt: PromptPrefix
    origin: str
    """Where its instruction comes from."""
    how: str
    """How its examples were chosen."""
    examples: tuple[str, ...] = ()
    """Ids of its examples."""

    @property
    def name(self) -> str:
        """Display name."""
        return ", ".join(dict.fromkeys((self.origin, self.how)))


def combine_candidates(
    first: PromptPrefix, instructions: Sequence[Instruction], sets: Sequence[ExampleSet]
) -> list[PromptCandidate]:
    """Return the model's current prompt, then every instruction with every set; each prompt once."""
    candidates = {first.digest: PromptCandidate(prompt=first, origin="as it is", how="as it is")}
    for shown in sets:
        turns = tuple(message for example in shown.examples for message in _turns(example))
        ids = tuple(example.id for example in shown.examples)
        for instruction in instructions:
            prompt = PromptPrefix(instruction=instruction.text, shown=turns)
            candidate = PromptCandidate(prompt=prompt, origin=instruction.origin, how=shown.how, examples=ids)
            candidates.setdefault(prompt.digest, candidate)
    return list(candidates.values())


def list_instructions(given: Sequence[str], own: str | None, labels: Sequence[str], *, vary: bool) -> list[Instruction]:
    """Return the rows' own instruction, those given, and (`vary`) both rephrased; `own` is the system message that all
    rows share, if any.
    """
    recipe_instructions = [
        Instruction(text, f"instruction {number} of the recipe") for number, text in enumerate(given, start=1)
    ]
    instructions = [Instruction(None, "the rows' own"), *recipe_instructions]
    if vary:
        bases = ([Instruction(own, "the rows' own")] if own else []) + recipe_instructions
        instructions += [other for base in bases for other in _rephrase_instructions(base, labels)]
        instructions += [Instruction(answer, "the answers listed")] if (answer := _listing(labels)) else []
        instructions += [Instruction("", "no instruction")]
    return instructions


def find_shared_instruction(examples: Sequence[Example]) -> str | None:
    """Return the system message that all rows begin with, when they share one."""
    firsts = {example.messages[0].content if example.messages[0].role == "system" else "" for example in examples}
    return firsts.pop() or None if len(firsts) == 1 else None


def example_sets(
    pool: Sequence[Example], held: Sequence[Example], counts: Sequence[int], *, draws: int, nearest: bool, seed: int
) -> list[ExampleSet]:
    """Return, for each count of examples, balanced draws by the seed and (`nearest`) those closest to the held-back
    rows.
    """
    able = [example for example in pool if is_usable_demonstration(example)]
    sets = []
    for count in counts:
        if count == 0:
            sets.append(ExampleSet((), "no examples"))
        elif count <= len(able):
            sets += [
                ExampleSet(draw_balanced_examples(able, count, seed, draw), f"draw {draw} of {count}")
                for draw in range(1, draws + 1)
            ]
            sets += (
                [ExampleSet(choose_closest_examples(able, held, count, seed), f"{NEAREST} {count}")] if nearest else []
            )
    return sets


def draw_balanced_examples(pool: Sequence[Example], count: int, seed: int, draw: int) -> tuple[Example, ...]:
    """Draw examples by the seed, of each class as many as of any other (up to one), in a random order."""
    chance = random.Random(f"{seed}/{count}/{draw}")
    queues = [chance.sample(rows, len(rows)) for rows in _by_class(pool)]
    chance.shuffle(queues)
    examples = _in_turn(queues, count)
    chance.shuffle(examples)
    return tuple(examples)


def choose_closest_examples(
    pool: Sequence[Example], held: Sequence[Example], count: int, seed: int
) -> tuple[Example, ...]:
    """Choose examples, balanced by class, such that every held-back row has one as near as possible.

    Greedy: each time the one that most raises the sum over held-back rows of the nearest example's similarity (facility
    location).
    """
    import numpy
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    rows = vectorizer.fit_transform([user_text_of(example) or "-" for example in [*pool, *held]])
    near = (rows[: len(pool)] @ rows[len(pool) :].T).toarray()  # (pool, held), cosine similarity
    index_by_id = {example.id: at for at, example in enumerate(pool)}
    classes = [[index_by_id[example.id] for example in rows_of_class] for rows_of_class in _by_class(pool)]
    best = numpy.zeros(len(held))
    taken: list[int] = []
    while len(taken) < count:
        left = [at for at in classes[len(taken) % len(classes)] if at not in taken]
        left = left or [at for at in range(len(pool)) if at not in taken]
        gains = numpy.maximum(near[left], best).sum(axis=1).round(9)
        taken.append(left[int(gains.argmax())])
        best = numpy.maximum(best, near[taken[-1]])
    random.Random(f"{seed}/{count}/{NEAREST}").shuffle(taken)
    return tuple(pool[at] for at in taken)


def is_usable_demonstration(example: Example) -> bool:
    """Whether an example can serve as a few-shot demonstration: plain turns that end with an answer, without tools."""
    plain = all(message.role in ("user", "assistant") and not message.tool_calls for message in _turns(example))
    return plain and not example.tools and example.messages[-1].role == "assistant"


def _rephrase_instructions(base: Instruction, labels: Sequence[str]) -> Iterator[Instruction]:
    answer = _listing(labels)
    for frame, what in FRAMES:
        if answer or "{answer}" not in frame:
            yield Instruction(frame.format(instruction=base.text, answer=answer), f"{base.origin}, {what}")


def _listing(labels: Sequence[str]) -> str:
    """Return the labels in a sentence; empty for texts, and for too many labels to read."""
    return f"Answer with one of: {', '.join(labels)}." if 0 < len(labels) <= LISTED else ""


def _turns(example: Example) -> tuple[Message, ...]:
    return tuple(message for message in example.messages if message.role != "system")


def _by_class(pool: Sequence[Example]) -> list[list[Example]]:
    """Return examples by label, labels in order; texts are one class."""
    labels = sorted({example.label or "" for example in pool})
    return [[example for example in pool if (example.label or "") == label] for label in labels]


def _in_turn(queues: Sequence[list[Example]], count: int) -> list[Example]:
    """Take one of each queue in turn, until there are enough."""
    longest = max(map(len, queues))
    return [queue[at] for at in range(longest) for queue in queues if at < len(queue)][:count]
