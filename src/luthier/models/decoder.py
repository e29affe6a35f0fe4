"""The one engine that writes text: asks come and go while others are being written, and what they share is read once.

    decoder = Decoder(loaded)
    ticket = decoder.admit(Ask(ids=prompt, max_new_tokens=64, stop=ends))
    while …:
        for written in decoder.step():
            …

Evaluation, serving and reinforcement learning all write with it. What is written for an ask does not depend on who else
is there: each draws from a random stream of its own, and models are read so that a token's numbers are the same in any
company.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from luthier.core.errors import DataError
from luthier.models.decoding.alone import Alone
from luthier.models.decoding.ask import BASE, GREEDY, Ask, Finish, Sampling, Stop, Written, is_enough
from luthier.models.decoding.choosing import Choice, choose
from luthier.models.decoding.line import Line
from luthier.models.decoding.reader import Portion, Reader
from luthier.models.decoding.speaking import refuse_unknown
from luthier.models.decoding.together import Together
from luthier.models.load import Loaded
from luthier.models.logprobs import answering, reading
from luthier.models.sequence import plain_model, refuse_sequence
from luthier.models.soft import soft_prompt

__all__ = ["BASE", "GREEDY", "Ask", "Decoder", "Sampling", "Stop", "Written"]

TOKENS = 16_384
"""Tokens that may be held at once, prompts and answers together: what bounds the key-value cache."""
PORTION = 64
"""Tokens of prompts that are read beside the next token of every line that is being written."""
PORTION_ALONE = 512
"""Tokens of prompts that are read at once while nothing is being written."""


class Decoder:
    """Continues asks, one token of each at a step.

    `tokens` may be held at once. While something is being written, `portion` tokens of waiting prompts are read at a
    step: few, so that nobody waits long for the next token; many, so that those who come together are written together.
    """

    def __init__(self, loaded: Loaded, *, tokens: int = TOKENS, portion: int = PORTION) -> None:
        refuse_sequence(plain_model(loaded.model))
        self._model = loaded.model
        self._reader = _reader(loaded.model, tokens)
        self._vocabulary = int(plain_model(loaded.model).config.get_text_config().vocab_size)
        self._portion = portion
        self._lines: dict[int, Line] = {}
        self._done: dict[int, Line] = {}
        self._tickets = 0

    def admit(self, ask: Ask) -> int | None:
        """Take an ask in and return its ticket; None when there is no room now.

        `DataError` for a prompt that the model cannot read, `ModelError` for an adapter that is not loaded.
        """
        refuse_unknown(self._model, ask.adapter)
        context = self.context
        if not 0 < len(ask.ids) < context:
            raise DataError(f"the prompt has {len(ask.ids)} tokens; the model reads 1 to {context - 1}")
        if unknown := [one for one in ask.ids if not 0 <= one < self._vocabulary]:
            raise DataError(f"the prompt has the token {unknown[0]}; the model knows 0 to {self._vocabulary - 1}")
        if ask.max_new_tokens < 1:
            raise DataError(f"{ask.max_new_tokens} new tokens are asked", remedy="ask for one at least")
        end = min(len(ask.ids) + ask.max_new_tokens, context)
        line = Line(self._tickets, ask, end, list(ask.ids))
        line.chance.manual_seed(ask.sampling.seed * 1_000_003 + ask.stream)
        if not self._reader.open(line):
            return None
        self._tickets += 1
        self._lines[line.ticket] = line
        return line.ticket

    @torch.no_grad()
    def step(self) -> list[Written]:
        """Read a portion of waiting prompts, and write the next token of every ask whose prompt is read."""
        self._done.clear()
        portions = self._next()
        if not portions:
            return []
        with answering(self._model) if self._model.training else nullcontext():
            logits = self._reader.read(portions)
        lasts = [portion.line for portion in portions if portion.last]
        for line, count in portions:
            line.read += count
        return [self._write(line, choice) for line, choice in zip(lasts, self._chosen(logits, lasts), strict=True)]

    def cancel(self, ticket: int) -> None:
        """Write no more for an ask; nothing happens when it is finished already."""
        line = self._lines.pop(ticket, None)
        if line is not None:
            self._reader.close(line)

    @property
    def context(self) -> int:
        """How many tokens the model reads at once, virtual ones taken off."""
        config = plain_model(self._model).config.get_text_config()
        return (getattr(config, "max_position_embeddings", None) or 1 << 40) - soft_prompt(self._model).count

    @property
    def cached(self) -> int:
        """How many tokens would be found again in the prefix cache."""
        return self._reader.cached

    def cached_tokens(self, ticket: int) -> int:
        """How many tokens of an ask's prompt were found in the prefix cache; asked before the step after its last."""
        line = self._lines.get(ticket) or self._done[ticket]
        return line.found

    def adopt(self, model: object) -> None:
        """Go on with the same weights under other adapters; who is being written speaks as before."""
        self._model = model
        self._reader.adopt(model)

    def close(self) -> None:
        """Let all asks go."""
        for ticket in list(self._lines):
            self.cancel(ticket)

    def _next(self) -> list[Portion]:
        """What is read in the next step: one token of each line that is written, and some of the others' prompts."""
        going = [Portion(line, 1) for line in self._lines.values() if line.begun]
        waiting = [line for line in self._lines.values() if not line.begun]
        return going + self._reader.portions(waiting, self._portion if going else max(self._portion, PORTION_ALONE))

    def _chosen(self, logits: Tensor, lines: list[Line]) -> Sequence[Choice]:
        return choose(logits, lines) if lines else ()

    def _write(self, line: Line, choice: Choice) -> Written:
        line.ids.append(choice.token)
        finish = self._finish(line)
        if finish is not None:
            self.cancel(line.ticket)
            self._done[line.ticket] = line
        return Written(line.ticket, choice.token, choice.logprob, choice.top, finish)

    def _finish(self, line: Line) -> Finish | None:
        if is_enough(line.written, line.ask.stop):
            return "stop"
        return "length" if len(line.ids) >= line.end else None


def _reader(model: object, tokens: int) -> Reader:
    """How a model is read for writing: many lines together where that is understood, else each alone."""
    how = reading(model)  # type: ignore[arg-type]
    if how.packed and how.head is not None and how.turn is None and not soft_prompt(model).count:
        return Together(model, how.head, tokens)
    return Alone(model, tokens)
