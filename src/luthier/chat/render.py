"""One full rendering of a conversation, with the place of every message and the stretches that a model is to learn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from luthier.chat.messages import Message
from luthier.chat.spans import Part, RenderedSegment, map_rendered_segments
from luthier.chat.template import CALL_PROBE, TOOL_PROBE, ChatTemplateError, JinjaChatTemplate, TemplateProber
from luthier.chat.template_guard import GuardedEncoder, SpecialTokenSpan
from luthier.core.errors import ModelError, SourceLocation

Learn = Literal["last", "all"] | Callable[[Message], bool]
"""Which assistant turns are learnt: the last, all, or those that a function says; never one marked `learn: false`."""
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AssistantTurnSpan:
    """Character span of an assistant turn to train on, from the end of the generation prompt through the end-of-turn
    token."""

    message: int
    start: int
    end: int
    closed: bool
    """Whether the template writes an end token; where it writes none at the very end, EOS is appended to the ids."""
    prefix: bool
    """Whether what the model is given when it generates (the earlier messages and the generation prompt) is how the
    full rendering begins. Where it is not, the turn begins where the two part, or at its first own text."""


@dataclass(frozen=True)
class RenderedChat:
    """The text of a conversation, and what is what in it. All places count characters of `text`."""

    text: str
    pieces: tuple[RenderedSegment, ...]
    controls: tuple[SpecialTokenSpan, ...]
    """The special tokens that the template wrote."""
    turns: tuple[AssistantTurnSpan, ...]
    dropped: tuple[str, ...]
    """What the template left out, such as `message 2: thinking`."""
    media: tuple[SpecialTokenSpan, ...] = ()
    """What stands for each picture and sound, in order."""

    def expand(self, indices: Sequence[int], texts: Sequence[str], guard: GuardedEncoder) -> RenderedChat:
        """The rendering with some of its special tokens, by number, replaced by what a processor writes for media."""
        shift = _Shift([self.controls[index] for index in indices], texts)
        kept = [
            SpecialTokenSpan(shift.moved(control.start), shift.moved(control.end))
            for number, control in enumerate(self.controls)
            if number not in set(indices)
        ]
        media = tuple(
            SpecialTokenSpan(start, start + len(text))
            for start, text in zip((shift.moved(self.controls[index].start) for index in indices), texts, strict=True)
        )
        inside = [
            SpecialTokenSpan(start + control.start, start + control.end)
            for (start, _), text in zip(media, texts, strict=True)
            for control in guard.controls(text, (), ())
        ]
        return RenderedChat(
            shift.applied(self.text),
            tuple(replace(piece, start=shift.moved(piece.start), end=shift.moved(piece.end)) for piece in self.pieces),
            tuple(sorted([*kept, *inside])),
            tuple(replace(turn, start=shift.moved(turn.start), end=shift.moved(turn.end)) for turn in self.turns),
            self.dropped,
            media,
        )


class _Shift:
    """What replacing some stretches of a text, in order, does to places outside of them."""

    def __init__(self, spans: Sequence[SpecialTokenSpan], texts: Sequence[str]) -> None:
        self._spans, self._texts = spans, texts
        self._ends = [span.end for span in spans]
        grown = (len(text) - (span.end - span.start) for span, text in zip(spans, texts, strict=True))
        self._sums = [0, *accumulate(grown)]

    def moved(self, index: int) -> int:
        """Where a place of the old text is in the new one."""
        return index + self._sums[bisect_right(self._ends, index)]

    def applied(self, text: str) -> str:
        """The new text."""
        parts, edge = [], 0
        for span, own in zip(self._spans, self._texts, strict=True):
            parts += [text[edge : span.start], own]
            edge = span.end
        return "".join([*parts, text[edge:]])


class _Ground(NamedTuple):
    """A rendering before its turns are known."""

    text: str
    pieces: tuple[RenderedSegment, ...]
    dropped: tuple[tuple[int, Part], ...]
    controls: list[SpecialTokenSpan]


@dataclass(frozen=True)
class ChatRenderer:
    """Renders conversations with one template and finds their turns; `guard` knows which texts are special tokens."""

    template: JinjaChatTemplate
    guard: GuardedEncoder

    @cached_property
    def forms(self) -> TemplateProber:
        """The form in which the template wants its messages."""
        return TemplateProber(self.template)

    def render(self, messages: Sequence[Message], tools: Tools = (), learn: Learn = "last") -> RenderedChat:
        """The whole conversation, with the turns to learn."""
        ground = self._ground(messages, tools, prompt=False)
        turn_indices = find_trained_turns(messages, learn)
        turns = tuple(self._turn(ground, messages, tools, number) for number in turn_indices)
        _check_shown(ground, turn_indices)
        return RenderedChat(
            ground.text, ground.pieces, tuple(ground.controls), turns, _describe_dropped(ground.dropped)
        )

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> RenderedChat:
        """The conversation so far, ready for the model's answer."""
        ground = self._ground(messages, tools, prompt=True)
        return RenderedChat(ground.text, ground.pieces, tuple(ground.controls), (), _describe_dropped(ground.dropped))

    @cached_property
    def end(self) -> str:
        """The special tokens that end an assistant turn, as the template writes them; empty if it writes none."""
        probe = (Message(role="user", content="qzvkasked"), Message(role="assistant", content="qzvkanswered"))
        run: list[SpecialTokenSpan] = []
        ground = self._ground(probe, (), prompt=False)
        for special in self._specials(ground, _edge(ground, 1, 0)):
            if run and run[-1].end != special.start:
                break
            run.append(special)
        return ground.text[run[0].start : run[-1].end] if run else ""

    @cached_property
    def ends(self) -> frozenset[str]:
        """The special tokens at which the model stops: the last of a turn, and the last of a turn that calls."""
        texts = [self.end]
        if self.forms.arguments != "dropped":
            called = self.render(CALL_PROBE, [TOOL_PROBE])
            texts.append(called.text[: called.turns[0].end] if called.turns[0].closed else "")
        found = [(text, self.guard.controls(text, (), ())[-1:]) for text in texts]
        return frozenset(text[last.start : last.end] for text, ending in found for last in ending)

    def _ground(self, messages: Sequence[Message], tools: Tools, *, prompt: bool) -> _Ground:
        text = self.template.render(self.forms.turns(messages), tools, prompt=prompt)
        special = self.guard.holds_special
        pieces, dropped = map_rendered_segments(self.forms, messages, tools, text, prompt=prompt, special=special)
        controls = self.guard.controls(text, pieces, [message.role for message in messages])
        return _Ground(text, pieces, dropped, controls)

    def _turn(self, ground: _Ground, messages: Sequence[Message], tools: Tools, number: int) -> AssistantTurnSpan:
        start, prefix = self._start(ground, messages, tools, number)
        edge = _edge(ground, number, start)
        bound = min(
            [piece.start for piece in ground.pieces if piece.message > number and piece.start >= edge], default=None
        )
        glue = ground.text[edge:bound]
        if self.end and (position := glue.find(self.end)) >= 0:
            return AssistantTurnSpan(number, start, edge + position + len(self.end), True, prefix)
        if number == len(messages) - 1:
            run, end = self._specials(ground, edge) if self.end else [], len(ground.text)
        else:
            end = edge + self._own_tail(glue, messages[: number + 1], tools)
            run = self._specials(ground, edge, end) or self._specials(ground, edge, bound)[:1] if self.end else []
        return AssistantTurnSpan(number, start, run[-1].end if run else end, bool(run), prefix)

    def _start(self, ground: _Ground, messages: Sequence[Message], tools: Tools, number: int) -> tuple[int, bool]:
        """Where the generation prompt ends; failing that, where the rendering and the prompt part."""
        opening = self._opening(messages[:number], tools)
        if opening is not None and ground.text.startswith(opening):
            return len(opening), True
        own = [piece.start for piece in ground.pieces if piece.message == number]
        first = min(own, default=len(ground.text))
        before = max([piece.end for piece in ground.pieces if piece.end <= first and piece.message < number], default=0)
        parted = first if opening is None else _shared(opening, ground.text)
        start = parted if before <= parted <= first else first
        return next((control.start for control in ground.controls if control.start < start < control.end), start), False

    def _opening(self, messages: Sequence[Message], tools: Tools) -> str | None:
        """What the model is given to write the next turn; None when the template cannot say."""
        if not messages:
            return None
        try:
            return self.template.render(self.forms.turns(messages), tools, prompt=True)
        except ChatTemplateError:
            return None

    def _specials(self, ground: _Ground, edge: int, bound: int | None = None) -> list[SpecialTokenSpan]:
        """The special tokens between two places."""
        end = len(ground.text) if bound is None else bound
        inside = [control for control in ground.controls if edge <= control.start and control.end <= end]
        return [token_span for token_span in inside if self.guard.is_special(ground.text, token_span)]

    def _own_tail(self, glue: str, messages: Sequence[Message], tools: Tools) -> int:
        """How much of what follows a turn in mid-conversation is its own: what the template writes after it when the
        conversation ends there."""
        try:
            ground = self._ground(messages, tools, prompt=False)
        except ChatTemplateError:
            return 0
        return _shared(glue, ground.text[_edge(ground, len(messages) - 1, 0) :])


def find_trained_turns(messages: Sequence[Message], learn: Learn) -> list[int]:
    """Numbers of the messages that are to be learnt."""
    spoken = [number for number, message in enumerate(messages) if message.role == "assistant"]
    if learn == "last":
        spoken = spoken[-1:]
    elif learn != "all":
        spoken = [number for number in spoken if learn(messages[number])]
    return [number for number in spoken if messages[number].learn]


def _edge(ground: _Ground, number: int, start: int) -> int:
    """Where the last text of a message ends in its own turn: a name that is written again later does not count."""
    ends: dict[int, int] = {}
    for piece in ground.pieces:
        if piece.message == number and piece.end > start:
            ends.setdefault(piece.given, piece.end)
    return max([start, *ends.values()])


def _check_shown(ground: _Ground, turn_indices: Sequence[int]) -> None:
    """Refuses a conversation of which the template drops what is to be learnt.

    Parts of turns before the last may go: many templates drop earlier reasoning on purpose, and the model, when it
    answers, never sees it there either. Such turns are learnt as far as they are shown.
    """
    shown = {piece.message for piece in ground.pieces}
    for number, part in ground.dropped:
        if number in turn_indices and (number == turn_indices[-1] or number not in shown):
            named = "tool calls" if part in ("name", "call") else part
            raise ModelError(
                f"the chat template leaves out the {named} of message {number + 1}, which is to be learnt",
                where=SourceLocation(field="chat_template"),
                hint=f"take the {named} out of the data, or choose a base model whose chat template writes them "
                "(in Python: pass a template=)",
            )


def _describe_dropped(dropped: Sequence[tuple[int, Part]]) -> tuple[str, ...]:
    return tuple(f"message {number + 1}: {part}" if number >= 0 else "tools" for number, part in dropped)


def _shared(left: str, right: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))
