"""The one id-maker: messages to token ids, the places of every message, and which tokens a model is to learn.

Rules that the rest of Luthier relies on:

* The text is the model's own chat template's, byte for byte; the ids are those of `apply_chat_template`.
* BOS is there where the template writes it, once. The end token of an assistant turn is learnt; what the template
  writes after it (a line break) is not. Where a template ends the last turn with no end token, EOS is appended, learnt.
* Special tokens that somebody typed are text. Only those that the template wrote are special.
* A learnt turn begins where the prompt of its generation ends, and no token reaches across that border: where the
  tokenizer would join characters from both sides, the border is kept and the row says so (`straddles`); only then do
  the ids differ from those of `apply_chat_template`. So the ids of `prompt()` are a prefix of the ids of the same
  conversation with its answer, and training sees what generation sees.
* A picture or a sound stands as ids of its own (`luthier.chat.media`), one for each feature; `plain_ids` gives those of
  transformers' processor. A cut never parts it: it goes whole.
* A model's prompt (`ChatTokenizer.before`) stands in front of every conversation; its examples are read, never learnt.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.chat.media import MediaProcessor, MediaSpan, build_media_ids
from luthier.chat.messages import Media, Message
from luthier.chat.prompt import PromptPrefix
from luthier.chat.render import ChatRenderer, Learn, RenderedChat, Tools
from luthier.chat.spans import Part, RenderedSegment
from luthier.chat.speech import TEMPLATE, SpeechProcessor
from luthier.chat.template import PINNED_DAY, JinjaChatTemplate, Turns, template_of
from luthier.chat.template_guard import EncodingRequest, GuardedEncoder, SpecialTokenSpan, TokensWithOffsets
from luthier.core.errors import DataError, ModelError, SourceLocation
from luthier.core.hashing import digest_of
from luthier.core.system.process import hide_transformers_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CutRule = Literal["prompt", "right", "refuse"]
"""What goes when a row is longer than `max_tokens`: "prompt" drops the oldest tokens of the prompt (a leading BOS
stays) and keeps the answer; an answer that is too long by itself loses its end. "right" drops the end of the row.
"refuse" raises `DataError`."""


_UNREAD = "leave the row out; sounds that are too long are cut where the base model's step sets `max_seconds`"
_NO_SOUND = "put one sound into the first turn; of a row of data that has none, leave the row out"
_THINKING = {
    "dropped": "the chat template leaves reasoning out",
    "inline": "the chat template has no field for reasoning: it stands in <think> tags",
}


class MessageSpan(NamedTuple):
    """Where a message stands: characters of `EncodedChat.text`, and tokens of `EncodedChat.ids`; ends are exclusive.

    Messages are counted in the conversation with the model's prompt in front.
    """

    message: int
    part: Part
    chars: tuple[int, int]
    tokens: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """A conversation as token ids, and what is what in it."""

    ids: list[int]
    loss_mask: list[bool]
    """For each id, whether the model is to learn to write it."""
    text: str
    spans: tuple[MessageSpan, ...]
    cut: Literal["", "prompt", "answer"] = ""
    """What of the row was cut off to fit `max_tokens`: the worst of it."""
    removed: int = 0
    """How many tokens were cut off."""
    straddles: int = 0
    """Borders between prompt and answer at which the tokenizer, left to itself, would have made other tokens: one that
    reaches across, or others just before because of what follows."""
    prefix: bool = True
    """Whether every learnt turn follows the very prompt that generation would be given (see `Turn.prefix`)."""
    dropped: tuple[str, ...] = ()
    """What the chat template left out of the conversation."""
    nothing: str = ""
    """Why no token is learnt, when none is."""
    media: tuple[MediaSpan, ...] = ()
    """The tokens of each picture and sound that is not cut off."""


class LocatedTokens(NamedTuple):
    """A rendering as token ids, with the characters of `text` that each stands for."""

    ids: list[int]
    starts: list[int]
    ends: list[int]
    text: str
    pieces: tuple[RenderedSegment, ...]
    """What messages and tools supplied; all else the template wrote. Messages are counted with the prompt in front."""


class ChatTokenizer:
    """Messages to ids and back for one model. `notes` and `remarks` say what was decided for the user."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        *,
        today: date | None = PINNED_DAY,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        before: PromptPrefix | None = None,
        ends: Collection[int] = (),
        media: MediaProcessor | None = None,
    ) -> None:
        """`template` replaces the tokenizer's own. `today` is what templates that write the date take it for; None is
        the machine's date. `options` are the template's own, such as `enable_thinking`. `before` stands in front of
        every conversation. `ends` are ids at which the model's own settings have generation stop; those that are
        ordinary text do not count. `media` reads pictures and sounds; None where the model reads text alone."""
        if not tokenizer.is_fast:
            raise ModelError(
                f"a fast tokenizer is needed (tokenizer.json); {type(tokenizer).__name__} is not one",
                where=SourceLocation(file=name or None),
                hint="convert it once with transformers and save it beside the model",
            )
        self.tokenizer = tokenizer
        self.name = name or str(tokenizer.name_or_path or "")
        self.before = before or PromptPrefix()
        self.media = media
        self.template: JinjaChatTemplate = template_of(tokenizer, override=template, today=today, options=options or {})
        literal = self.template.source + (self.template.with_tools or "")
        self._guard = GuardedEncoder(tokenizer.backend_tokenizer, literal)
        self._renderer = ChatRenderer(self.template, self._guard)
        added = tokenizer.added_tokens_decoder
        self._ends = {end for end in ends if end in added and added[end].special}

    @classmethod
    def load(
        cls,
        folder: Path | str,
        template: str | None = None,
        *,
        today: date | None = PINNED_DAY,
        options: Mapping[str, Any] | None = None,
        before: PromptPrefix | None = None,
        max_pixels: int | None = None,
        max_seconds: float | None = None,
    ) -> ChatTokenizer:
        """The tokenizer, chat template and processor of a model in a Hugging Face folder; nothing is fetched, no code
        is run. Pictures of more than `max_pixels` are made smaller first; of sounds longer than `max_seconds` the
        beginning is heard."""
        from transformers import AutoTokenizer

        try:
            with hide_transformers_output():
                tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"the tokenizer cannot be loaded: {error}",
                where=SourceLocation(file=str(folder)),
                hint="the folder must hold tokenizer.json and tokenizer_config.json",
            ) from error
        more: dict[str, Any] = {"today": today, "options": options, "before": before, "ends": _ends(Path(folder))}
        more["media"] = media = MediaProcessor.load(Path(folder), max_pixels=max_pixels, max_seconds=max_seconds)
        if isinstance(media, SpeechProcessor) and template is None and tokenizer.chat_template is None:
            template, more["options"] = TEMPLATE, {**media.template_options, **(options or {})}
        return cls(tokenizer, template, name=Path(folder).name, **more)

    def with_options(self, options: Mapping[str, Any]) -> ChatTokenizer:
        """The same with other options of the chat template, such as the `language` of what is transcribed."""
        found = copy(self)
        found.template = replace(self.template, constants={**self.template.constants, **options})
        found._renderer = ChatRenderer(found.template, self._guard)
        for name in ("digest", "notes", "end_ids"):
            vars(found).pop(name, None)
        return found

    @property
    def special_tokens(self) -> frozenset[str]:
        """The special tokens, which are never made from the text of a message."""
        return self._guard.special

    def turns(self, messages: Sequence[Message]) -> Turns:
        """Messages as the dictionaries that this model's chat template reads, for `apply_chat_template` elsewhere."""
        return self._renderer.forms.turns(self.before.wrap(messages))

    def render(self, messages: Sequence[Message], tools: Tools = (), *, learn: Learn = "last") -> RenderedChat:
        """The whole conversation as the one text, with the places of messages and of what is to be learnt."""
        wrapped = self.before.wrap(messages)
        self._refuse_media(wrapped)
        rendered = self._expanded(self._renderer.render(wrapped, tools, learn), wrapped)
        ahead = self.before.ahead(messages)
        return replace(rendered, turns=tuple(turn for turn in rendered.turns if turn.message >= ahead))

    def encode(
        self,
        messages: Sequence[Message],
        tools: Tools = (),
        *,
        learn: Learn = "last",
        max_tokens: int | None = None,
        cut: CutRule = "prompt",
    ) -> EncodedChat:
        """A conversation as ids; `learn` takes the last assistant turn, all of them, or those that a function says."""
        return self.encode_many([messages], [tools], learn=learn, max_tokens=max_tokens, cut=cut)[0]

    def encode_many(
        self,
        conversations: Sequence[Sequence[Message]],
        tools: Sequence[Tools] | None = None,
        *,
        learn: Learn = "last",
        max_tokens: int | None = None,
        cut: CutRule = "prompt",
    ) -> list[EncodedChat]:
        """Many conversations at once; `tools`, when given, has one entry for each."""
        offered = tools if tools is not None else [()] * len(conversations)
        pairs = zip(conversations, offered, strict=True)
        rendered = [self.render(messages, on_offer, learn=learn) for messages, on_offer in pairs]
        joined = self._guard.encode(
            [EncodingRequest(rendered_chat.text, rendered_chat.controls) for rendered_chat in rendered]
        )
        boundaries = self._boundaries(rendered, joined)
        rows = [self._row(*each) for each in zip(rendered, joined, boundaries, conversations, strict=True)]
        if isinstance(self.media, SpeechProcessor) and cut == "prompt":
            cut = "right"  # what a transcript begins with is never left out
        return [_fit(row, max_tokens, cut, self.tokenizer.bos_token_id) for row in rows]

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Ids that the model is given to write the next assistant turn."""
        return self.prompts([messages], [tools])[0]

    def prompts(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[Tools] | None = None
    ) -> list[list[int]]:
        """`prompt` of many conversations at once."""
        offered = tools if tools is not None else [()] * len(conversations)
        pairs = zip(conversations, offered, strict=True)
        wrapped = [(self.before.wrap(messages), on_offer) for messages, on_offer in pairs]
        rendered = [self._prompt(messages, on_offer) for messages, on_offer in wrapped]
        encoded = self._guard.encode(
            [EncodingRequest(rendered_chat.text, rendered_chat.controls) for rendered_chat in rendered]
        )
        return [
            self._with_media(tokens, rendered_chat.media, messages)[0].ids
            for tokens, rendered_chat, (messages, _) in zip(encoded, rendered, wrapped, strict=True)
        ]

    def locate_tokens(self, messages: Sequence[Message], tools: Tools = (), *, answered: bool = False) -> LocatedTokens:
        """The ids of `prompt`, or with `answered` those of `encode`, and where each stands in the rendering."""
        if not answered:
            prompt = self._prompt(self.before.wrap(messages), tools)
            tokens = self._guard.encode([EncodingRequest(prompt.text, prompt.controls)])[0]
            tokens, _ = self._with_media(tokens, prompt.media, self.before.wrap(messages))
            return LocatedTokens(tokens.ids, tokens.starts, tokens.ends, prompt.text, prompt.pieces)
        rendered = self.render(messages, tools)
        joined = self._guard.encode([EncodingRequest(rendered.text, rendered.controls)])
        boundaries = self._boundaries([rendered], joined)[0]
        row = self._row(rendered, joined[0], boundaries, messages)
        tokens = (
            self._guard.encode([EncodingRequest(rendered.text, rendered.controls, boundaries)])[0]
            if boundaries
            else joined[0]
        )
        rest = [len(rendered.text)] * (len(row.ids) - len(tokens.ids))  # an EOS that is appended
        return LocatedTokens(row.ids, [*tokens.starts, *rest], [*tokens.ends, *rest], rendered.text, rendered.pieces)

    def going_on(self, messages: Sequence[Message], reply: Message, tools: Tools = ()) -> list[int]:
        """Ids from the end of an assistant's turn, which stands before `said`, up to where the next one begins.

        The turn itself stays in the ids in which it was written: its text may be cut into others. `ModelError` where
        the chat template writes a turn otherwise once something follows it.
        """
        spoken = [*messages, Message(role="assistant", content="ok")]
        before = self.render(spoken, tools)
        after = self._prompt(self.before.wrap([*spoken, reply]), tools)
        end = before.turns[-1].end
        if not after.text.startswith(before.text[:end]) or reply.content.strip() not in after.text[end:]:
            what = f"the chat template of {self.name or 'this model'} cannot go on after an assistant's turn"
            hint = f"speak as `user`: {reply.role!r} may be unknown to it"
            raise ModelError(what, where=SourceLocation(field="rollout.environment"), hint=hint)
        tokens = self._guard.encode([EncodingRequest(after.text, after.controls, [end])])[0]
        tokens, _ = self._with_media(tokens, after.media, self.before.wrap([*spoken, reply]))
        return tokens.ids[bisect_left(tokens.starts, end) :]

    def answer(self, messages: Sequence[Message], text: str, tools: Tools = ()) -> EncodedChat:
        """A prompt with one given answer, of which every token is learnt (or scored)."""
        return self.answers(messages, [text], tools)[0]

    def answers(self, messages: Sequence[Message], texts: Iterable[str], tools: Tools = ()) -> list[EncodedChat]:
        """A prompt with each of several answers, for scoring them against one another."""
        rows = [[*messages, Message(role="assistant", content=text)] for text in texts]
        return self.encode_many(rows, [tools] * len(rows))

    def options(
        self, messages: Sequence[Message], texts: Iterable[str], tools: Tools = ()
    ) -> tuple[list[int], list[list[int]]]:
        """The prompt's ids, and for each answer its own up to the end token, of which every one is to be scored."""
        rows = self.answers(messages, texts, tools)
        for row in rows:
            if row.nothing:
                raise DataError(f"an answer cannot be scored: {row.nothing}", hint="is a label empty?")
        begins = [row.loss_mask.index(True) for row in rows]
        ends = [len(row.loss_mask) - row.loss_mask[::-1].index(True) for row in rows]
        before = rows[0].ids[: begins[0]]
        assert all(row.ids[:begin] == before for row, begin in zip(rows, begins, strict=True)), "answers share a prompt"
        return before, [row.ids[begin:end] for row, begin, end in zip(rows, begins, ends, strict=True)]

    def encode_texts(self, plans: Sequence[EncodingRequest]) -> list[TokensWithOffsets]:
        """Tokens of texts of which no chat template is asked."""
        return self._guard.encode(plans)

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """The text of ids; without `special`, special tokens are left out."""
        return str(
            self.tokenizer.decode(
                self.plain_ids(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        )

    def plain_ids(self, ids: Sequence[int]) -> list[int]:
        """Ids as transformers' processor gives them, with one token of the vocabulary for each feature of a medium."""
        return self.media.restore(ids) if self.media is not None else list(ids)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids at which generation of an assistant turn stops."""
        found = {self.tokenizer.convert_tokens_to_ids(token) for token in self._renderer.ends}
        return frozenset(found | self._ends | {self.tokenizer.eos_token_id} - {None})

    @property
    def vocabulary(self) -> int:
        """How many ids the tokenizer knows, added tokens included."""
        return len(self.tokenizer)

    @cached_property
    def vocabulary_digest(self) -> str:
        """Names what each id stands for: two models with the same can read each other's ids."""
        return digest_of(self.tokenizer.get_vocab())

    @cached_property
    def digest(self) -> str:
        """Names all that decides which ids come out: the template with its options, the tokenizer, the prompt."""
        parts = [self.template.digest, self.tokenizer.backend_tokenizer.to_str(), self.before.digest]
        return digest_of([*parts, self.media.digest] if self.media is not None else parts)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was decided whatever the conversation, and why; each is a sentence to show to the user."""
        plain = self.template.plain
        eos = self.tokenizer.eos_token
        candidates = [
            (plain, "the model has no chat template: contents follow one another, each answer ends with EOS"),
            (
                not plain and not self._renderer.end and eos,
                f"the chat template ends no turn: {eos} is appended and learnt",
            ),
            (not self.end_ids, "the tokenizer has no EOS and the template no end token: generation stops at its limit"),
            (
                not self.template.undated,
                "the chat template writes the date of the day: the same rows differ from day to day",
            ),
            (self._renderer.forms.parts, "the chat template takes contents as lists of parts"),
        ]
        return tuple(sentence for holds, sentence in candidates if holds)

    def remarks(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """What becomes of reasoning that stands in a conversation, where that is not what one expects."""
        found: list[str] = []
        if any(message.thinking for message in messages) and (sentence := _THINKING.get(self._renderer.forms.thinking)):
            found.append(sentence)
        return tuple(found)

    def _prompt(self, messages: Sequence[Message], tools: Tools) -> RenderedChat:
        """The rendering of a conversation so far, which has the model's prompt in front."""
        self._refuse_media(messages)
        if self.media is not None and (why := self.media.refuses(messages)):
            hint = _UNREAD if _list_media(messages) else _NO_SOUND
            raise DataError(why, where=SourceLocation(field="messages"), hint=hint)
        return self._expanded(self._renderer.prompt(messages, tools), messages)

    def _refuse_media(self, messages: Sequence[Message]) -> None:
        """`DataError` for pictures and sounds where the model reads text alone."""
        if self.media is None and any(message.media for message in messages):
            hint = "choose a model that reads them, join one with `kind: compose`, or drop these rows"
            what = f"{self.name or 'this model'} reads text alone, and the row has pictures or sounds"
            raise DataError(what, where=SourceLocation(field="messages"), hint=hint)

    def _expanded(self, rendered: RenderedChat, messages: Sequence[Message]) -> RenderedChat:
        """A rendering with what stands for each medium of its messages."""
        media = _list_media(messages)
        if not media:
            return rendered
        assert self.media is not None, "messages with media are refused before they are rendered"
        multi_image = len(media) > 1
        texts = [self.media.get(self.media.meet(medium, multi_image=multi_image)).text for medium in media]
        written = {token: kind for kind, token in self.media.written.items()}
        indices = [
            number
            for number, control in enumerate(rendered.controls)
            if rendered.text[control.start : control.end] in written
        ]
        kinds = [
            written[rendered.text[rendered.controls[index].start : rendered.controls[index].end]] for index in indices
        ]
        if kinds != [medium.kind for medium in media]:
            raise ModelError(
                f"the chat template writes {len(indices)} places for the {len(media)} pictures and sounds of a row",
                where=SourceLocation(field="chat_template"),
                hint="pass another template=: one that takes contents as parts, and media in every turn that has them",
            )
        return rendered.expand(indices, texts, self._guard)

    def _with_media(
        self, tokens: TokensWithOffsets, media_spans: Sequence[SpecialTokenSpan], messages: Sequence[Message]
    ) -> tuple[TokensWithOffsets, tuple[MediaSpan, ...]]:
        """Tokens in which those of media have ids of their own, and where each medium stands."""
        if not media_spans:
            return tokens, ()
        assert self.media is not None, "whoever expands media has a processor"
        ids, spans = list(tokens.ids), []
        media = _list_media(messages)
        for medium, (start, end) in zip(media, media_spans, strict=True):
            first, stop = bisect_left(tokens.starts, start), bisect_left(tokens.starts, end)
            key, feature = self.media.meet(medium, multi_image=len(media) > 1), self.media.feature_ids[medium.kind]
            indices = [index for index in range(first, stop) if ids[index] == feature]
            own = build_media_ids(key, self.media.get(key).count)
            assert len(indices) == len(own), "a processor writes a token for each feature"
            for index, id_ in zip(indices, own, strict=True):
                ids[index] = id_
            spans.append(MediaSpan(medium.digest, (first, stop)))
        return tokens._replace(ids=self.media.bind(ids)), tuple(spans)

    def _boundaries(self, rendered: Sequence[RenderedChat], joined: Sequence[TokensWithOffsets]) -> list[list[int]]:
        """For each row the borders at which its tokens are not those of the prompt alone."""
        borders = [
            (number, turn.start) for number, rendered_chat in enumerate(rendered) for turn in rendered_chat.turns
        ]
        heads = {border: _head(rendered[border[0]], border[1]) for border in borders}
        plans = {head.text: head for head in heads.values()}
        alone = dict(zip(plans, self._guard.encode(list(plans.values())), strict=True))
        boundaries: list[list[int]] = [[] for _ in rendered]
        for (number, position), head in heads.items():
            if not _begins_alike(joined[number], alone[head.text], position - len(head.text), head):
                boundaries[number].append(position)
        return boundaries

    def _row(
        self, rendered: RenderedChat, joined: TokensWithOffsets, boundaries: list[int], messages: Sequence[Message]
    ) -> EncodedChat:
        tokens = (
            self._guard.encode([EncodingRequest(rendered.text, rendered.controls, boundaries)])[0]
            if boundaries
            else joined
        )
        tokens, media = self._with_media(tokens, rendered.media, self.before.wrap(messages))
        loss_mask = [False] * len(tokens.ids)
        for turn in rendered.turns:
            first, end = bisect_left(tokens.starts, turn.start), bisect_left(tokens.starts, turn.end)
            loss_mask[first:end] = [True] * (end - first)
        row = EncodedChat(
            ids=tokens.ids,
            loss_mask=loss_mask,
            text=rendered.text,
            spans=tuple(_span(piece.message, piece.part, piece.start, piece.end, tokens) for piece in rendered.pieces),
            straddles=len(boundaries),
            prefix=all(turn.prefix for turn in rendered.turns),
            dropped=rendered.dropped,
            media=media,
        )
        row = self._closed(row, rendered, len(self.before.wrap(messages)) - 1)
        row = replace(row, nothing="" if any(row.loss_mask) else _nothing(rendered, messages))
        if self.media is None:
            return row
        if any(self.media.is_cut(medium) for medium in _list_media(messages)):
            row = replace(row, cut="prompt")
        unread = self.media.refuses(messages)
        return replace(row, nothing=unread, loss_mask=[False] * len(row.ids)) if unread else row

    def _closed(self, row: EncodedChat, rendered: RenderedChat, last: int) -> EncodedChat:
        eos = self.tokenizer.eos_token_id
        turn = rendered.turns[-1] if rendered.turns else None
        if turn is None or turn.closed or turn.message != last or eos is None:
            return row
        return replace(row, ids=[*row.ids, eos], loss_mask=[*row.loss_mask, True])


def _ends(folder: Path) -> list[int]:
    """Ids at which generation stops by the settings that travel with a model: Qwen's and Llama's have several."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    try:
        eos_ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            "is no JSON object", where=SourceLocation(file=str(path)), hint="fetch the model again"
        ) from error
    return [eos_id_ for eos_id_ in (eos_ids if isinstance(eos_ids, list) else [eos_ids]) if isinstance(eos_id_, int)]


def _list_media(messages: Sequence[Message]) -> list[Media]:
    return [medium for message in messages for medium in message.media]


def _nothing(rendered: RenderedChat, messages: Sequence[Message]) -> str:
    """Why no token of a conversation is learnt."""
    if rendered.turns:
        return "no token of an answer"
    spoken = any(message.role == "assistant" for message in messages)
    return "no turn that is to be learnt" if spoken else "no assistant turn"


def _head(rendered: RenderedChat, position: int) -> EncodingRequest:
    """The rendering up to a place, from the last special token on (nothing before one changes what follows it)."""
    last = next((control for control in reversed(rendered.controls) if control.end <= position), None)
    if last is None:
        return EncodingRequest(rendered.text[:position], ())
    return EncodingRequest(rendered.text[last.start : position], [SpecialTokenSpan(0, last.end - last.start)])


def _begins_alike(joined: TokensWithOffsets, alone: TokensWithOffsets, offset: int, head: EncodingRequest) -> bool:
    """Whether the tokens of `head` by itself are those that it has at `offset` in a longer text."""
    first = head.controls[0].end if head.controls else 0
    ours = alone.ids[bisect_left(alone.starts, first) :]
    start = bisect_left(joined.starts, first + offset)
    return joined.ids[start : start + len(ours)] == ours


def _span(message: int, part: Part, start: int, end: int, tokens: TokensWithOffsets) -> MessageSpan:
    first, stop = bisect_left(tokens.starts, start), bisect_left(tokens.starts, end)
    if first > 0 and tokens.ends[first - 1] > start:
        first -= 1
    return MessageSpan(message, part, (start, end), (first, stop))


def _fit(row: EncodedChat, limit: int | None, rule: CutRule, bos: int | None) -> EncodedChat:
    """A row of at most `limit` tokens, cut by `rule`."""
    over = 0 if limit is None else len(row.ids) - limit
    if limit is None or over <= 0:
        return row
    if rule == "refuse":
        raise DataError(
            f"the row has {len(row.ids)} tokens; {limit} are allowed",
            where=SourceLocation(field="messages"),
            hint="raise max_length, or let rows be cut",
        )
    head = 1 if bos is not None and row.ids[:1] == [bos] else 0
    first = row.loss_mask.index(True) if True in row.loss_mask else len(row.ids)
    gone = min(over, first - head) if rule == "prompt" else 0
    gone = min(first, _past_medium(row, head + gone)) - head if gone else 0
    cut = _without(row, head, gone, _before_medium(row, limit + gone) - gone)
    lost = sum(row.loss_mask) - sum(cut.loss_mask)
    why = cut.nothing or ("" if any(cut.loss_mask) else f"the answer lies beyond {limit} tokens")
    return replace(cut, cut="answer" if lost else "prompt", removed=len(row.ids) - len(cut.ids), nothing=why)


def _past_medium(row: EncodedChat, position: int) -> int:
    """A place, or the end of the medium that it lies within: what is cut off before it takes the medium along."""
    return next((end for _, (start, end) in row.media if start < position < end), position)


def _before_medium(row: EncodedChat, position: int) -> int:
    """A place, or the start of the medium that it lies within."""
    return next((start for _, (start, end) in row.media if start < position < end), position)


def _without(row: EncodedChat, head: int, gone: int, limit: int) -> EncodedChat:
    """A row without `gone` tokens after the first `head`, and without what then lies beyond `limit`."""

    def kept(items: list[Any]) -> list[Any]:
        return [*items[:head], *items[head + gone :]][:limit]

    def moved(position: int) -> int:
        return min(position if position <= head else max(head, position - gone), limit)

    spans = [span._replace(tokens=(moved(span.tokens[0]), moved(span.tokens[1]))) for span in row.spans]
    media = [span._replace(tokens=(moved(span.tokens[0]), moved(span.tokens[1]))) for span in row.media]
    left = tuple(span for span in media if span.tokens[0] < span.tokens[1])
    return replace(row, ids=kept(row.ids), loss_mask=kept(row.loss_mask), spans=tuple(spans), media=left)
