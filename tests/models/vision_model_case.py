"""A tiny model that reads pictures, in float64, beside what its own processor and forward give for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from luthier.chat.media import load_processor
from luthier.chat.media_codec import decode_image
from luthier.chat.messages import MEDIA_MARK, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.media.towers import attach_media
from luthier.models.packing.pack import TokenRow
from vision_models import picture, resized, shown

FIRST, FIRST_BYTES = picture(1)
SECOND, SECOND_BYTES = picture(2, 64, 40)
LARGER, LARGER_BYTES = resized(FIRST_BYTES, 72, 56)
BYTES = {LARGER.digest: LARGER_BYTES, FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES}
CONVERSATIONS = [
    shown("what is this?", FIRST, SECOND, answer="two pictures"),
    shown("what is this?", FIRST, SECOND, answer="two of them"),
    shown("what is this?", SECOND, answer="one"),
    shown("and what is that?", FIRST, answer="another"),
    shown("what?", answer="no picture"),
    (*shown("what is this?", FIRST, answer="no"), *shown("so?", SECOND, FIRST, answer="yes")),
]


class VisionModelCase:
    """A tiny model of a family in float64, with what reads rows for it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText

        self.text, self.processor = ChatTokenizer.load(folder), load_processor(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float64, experts_implementation="eager"
        ).eval()
        self.model.generation_config.eos_token_id = None  # so many tokens are written, whatever they are
        self.conversations = CONVERSATIONS
        if self.model.config.model_type == "paligemma":  # one question, one answer
            self.conversations = [messages for messages in CONVERSATIONS if len(messages) == 2]
        attach_media(self.model, self.text.media, BYTES.__getitem__)

    def rows(self, conversations: Sequence[tuple[Message, ...]] | None = None) -> list[TokenRow]:
        encoded = [self.text.encode(messages) for messages in conversations or self.conversations]
        return [TokenRow(row.ids, list(map(float, row.loss_mask)), str(number)) for number, row in enumerate(encoded)]

    def plain_inputs(self, messages: tuple[Message, ...], *, prompt: bool = False) -> dict[str, Tensor]:
        if self.model.config.model_type == "paligemma":
            return self._prefixed_inputs(messages, prompt=prompt)
        turns = []
        for message in messages:
            images = [{"type": "image", "image": decode_image(BYTES[media.digest])} for media in message.media]
            text = {"type": "text", "text": message.content.replace(MEDIA_MARK, "")}
            turns.append({"role": message.role, "content": [*images, text]})
        inputs = self.processor.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=prompt
        )
        return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}

    def _prefixed_inputs(self, messages: tuple[Message, ...], *, prompt: bool) -> dict[str, Tensor]:
        """What PaliGemma's processor makes of a question and its answer; of one without a picture, which it does not
        take, its ids and what they are."""
        question, *answers = messages
        text = question.content.replace(MEDIA_MARK, "")
        if not question.media:
            answered = "".join(answer.content + self.text.tokenizer.eos_token for answer in answers)
            begin = self.text.tokenizer.bos_token
            more = {"add_special_tokens": False, "return_token_type_ids": True, "return_tensors": "pt"}
            pair = (f"{begin}{text}\n", *([answered] if answered else []))
            return dict(self.text.tokenizer(*pair, **more))
        images = [decode_image(BYTES[media.digest]) for media in question.media]
        suffix = None if prompt else answers[0].content
        found = self.processor(text="<image>" * len(images) + text, suffix=suffix, images=[images], return_tensors="pt")
        return {
            name: value.double() if value.is_floating_point() else value
            for name, value in found.items()
            if name != "labels"
        }

    def plain(self, conversations: Sequence[tuple[Message, ...]] | None = None) -> Tensor:
        """Log-probabilities of learnt tokens as processor and model give them, each conversation by itself."""
        conversations = conversations or self.conversations
        found = []
        for messages, row in zip(conversations, self.rows(conversations), strict=True):
            inputs = self.plain_inputs(messages)
            logp = torch.log_softmax(self.model(**inputs).logits[0], -1)
            found += [logp[at - 1, inputs["input_ids"][0, at]] for at in row.targets]
        return torch.stack(found)
