"""Answers by the model that learns: drawn by the one decoder, each from a random stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from luthier.models.decoder import GREEDY, PORTION_ALONE, Ask, Decoder, Sampling
from luthier.models.decoding.blocks import BLOCK
from luthier.tune.rollout.settings import HELD_TOKENS

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.text.ids import Text
    from luthier.text.messages import Example, Message

_SEEDS = (1 << 40) - 1


class Prompt(NamedTuple):
    """What is to be answered, and the random stream of the answer; None for the likeliest answer."""

    ids: Sequence[int]
    stream: int | None
    example: Example | None = None
    """Whose question it is, for an environment that answers it."""


@dataclass
class Answer:
    """What was written after a prompt."""

    prompt: Sequence[int]
    ids: list[int] = field(default_factory=list)
    """The end token included, where it ended by itself; in a conversation, what the environment said, too."""
    logprobs: list[float] = field(default_factory=list)
    """How likely each token was when it was written; of what the environment said, nothing."""
    ended: bool = False
    """Whether the last turn ended by itself."""
    heard: list[tuple[int, int]] = field(default_factory=list)
    """Where in `ids` the environment speaks: begin and end of each time."""
    turns: tuple[Message, ...] = ()
    """All that was said in a conversation, the last turn included; empty where there was but one turn to say."""

    @property
    def written(self) -> list[bool]:
        """For each id, whether the model wrote it."""
        own = [True] * len(self.ids)
        for begin, end in self.heard:
            own[begin:end] = [False] * (end - begin)
        return own

    @property
    def last(self) -> list[int]:
        """The ids of the last turn."""
        return self.ids[self.heard[-1][1] :] if self.heard else self.ids


def write(loaded: Loaded, text: Text, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Answer]:
    """An answer to each prompt; what prompts share is read once."""
    answers = [Answer(prompt.ids) for prompt in prompts]
    asks = [_ask(prompt, text, max_new_tokens) for prompt in prompts]
    wanted = sum(len(prompt.ids) + max_new_tokens + BLOCK for prompt in prompts)  # rooms are whole blocks
    most = max((len(prompt.ids) + max_new_tokens + BLOCK for prompt in prompts), default=0)
    decoder = Decoder(loaded, tokens=max(most, min(HELD_TOKENS, wanted)), portion=PORTION_ALONE)
    waiting = sorted(range(len(prompts)), key=lambda at: list(prompts[at].ids), reverse=True)
    places: dict[int, int] = {}
    going = 0
    while waiting or going:
        while waiting and (ticket := decoder.admit(asks[waiting[-1]])) is not None:
            places[ticket] = waiting.pop()
            going += 1
        for one in decoder.step():
            answer = answers[places[one.ticket]]
            answer.ids.append(one.token)
            answer.logprobs.append(one.logprob)
            if one.finish is not None:
                answer.ended = one.finish == "stop"
                going -= 1
    return answers


def _ask(prompt: Prompt, text: Text, max_new_tokens: int) -> Ask:
    sampling = GREEDY if prompt.stream is None else Sampling(temperature=1.0, seed=prompt.stream)
    return Ask(ids=prompt.ids, max_new_tokens=max_new_tokens, stop=text.end_ids, sampling=sampling)


def stream_of(*named: int) -> int:
    """A random stream for whatever some numbers name: seed, step, place, lesson and sample, say."""
    import xxhash

    return xxhash.xxh3_64_intdigest(",".join(map(str, named)).encode()) & _SEEDS
