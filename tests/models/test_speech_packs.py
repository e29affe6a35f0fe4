"""Packs of models that transcribe: log-probabilities, gradients and transcripts are the plain model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS
from luthier.chat.media_codec import decode_audio
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.adapters import NO_PROMPT
from luthier.models.generate import generate
from luthier.models.load import LoadedModel
from luthier.models.media import towers
from luthier.models.media.towers import attach_media, find_towers, gather_leaves, learn_media, list_row_media
from luthier.models.packing.logprobs import (
    _hidden_packed,
    _hidden_padded,
    compute_pack_logprobs,
    detect_forward_mode,
)
from luthier.models.packing.pack import TokenRow, build_pack, build_packs
from luthier.models.quiet import silence_peft_warnings
from luthier.models.shapes import find_part
from models.architectures import Double
from spoken import FAMILIES, sound, spoken, tiny_speech

FIRST, FIRST_BYTES = sound(1, 0.4)
SECOND, SECOND_BYTES = sound(2, 0.9)
THIRD, THIRD_BYTES = sound(3, 0.4)
BYTES = {FIRST.digest: FIRST_BYTES, SECOND.digest: SECOND_BYTES, THIRD.digest: THIRD_BYTES}
LONG = "one two three four and so on to the end"
CONVERSATIONS = [
    spoken(FIRST, " one two"),
    spoken(FIRST, " one two three"),
    spoken(SECOND, " one two"),
    spoken(THIRD, LONG),
    spoken(FIRST, " ten"),
]


class Spoken:
    """A tiny model of a family in float64, with what reads rows for it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq

        self.text = ChatTokenizer.load(folder)
        self.extractor = AutoFeatureExtractor.from_pretrained(folder)
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float64).eval()
        attach_media(self.model, self.text.media, BYTES.__getitem__)

    def rows(self, conversations: Sequence[tuple[Message, ...]] = CONVERSATIONS) -> list[TokenRow]:
        encoded = [self.text.encode(messages) for messages in conversations]
        return [TokenRow(row.ids, list(map(float, row.loss_mask)), str(number)) for number, row in enumerate(encoded)]

    def heard(self, messages: tuple[Message, ...]) -> dict[str, Tensor]:
        """What the plain feature extractor gives of a row's sound."""
        samples, rate = decode_audio(BYTES[messages[0].media[0].digest])
        found = self.extractor(samples, sampling_rate=rate, return_tensors="pt")
        return {name: value.double() if value.is_floating_point() else value for name, value in found.items()}

    def plain(self, conversations: Sequence[tuple[Message, ...]] = CONVERSATIONS) -> Tensor:
        """Log-probabilities of learnt tokens as processor and model give them, each row by itself."""
        found = []
        for messages, row in zip(conversations, self.rows(conversations), strict=True):
            ids = torch.tensor([self.text.plain_ids(row.ids)])
            logp = torch.log_softmax(self.model(**self.heard(messages), decoder_input_ids=ids).logits[0], -1)
            found += [logp[at - 1, row.ids[at]] for at in row.targets]
        return torch.stack(found)


@pytest.fixture(autouse=True)
def forget_features() -> Iterator[None]:
    """No test finds features that another one read with other weights."""
    yield
    for read in towers._TOWERS.values():
        read._features.clear()


@pytest.fixture(scope="module", params=FAMILIES)
def speech(request: Any, tmp_path_factory: Any) -> Spoken:
    return Spoken(tiny_speech(tmp_path_factory.mktemp("speech"), request.param))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: Any) -> Spoken:
    return Spoken(tiny_speech(tmp_path_factory.mktemp("whisper")))


def test_log_probabilities_are_the_plain_models(speech: Spoken) -> None:
    rows = speech.rows()
    pack = build_pack(rows, share_from=1)
    assert detect_forward_mode(speech.model).packed, detect_forward_mode(speech.model).why
    with torch.no_grad():
        found, expected = compute_pack_logprobs(speech.model, pack), speech.plain()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert sum(token >= MEDIA_IDS for token in pack.ids.tolist()) == 3  # one for each sound, however many rows it has


def test_rows_that_are_not_packed_give_the_same(speech: Spoken) -> None:
    pack = build_pack(speech.rows(), share_from=1)
    detect_forward_mode(speech.model)
    with torch.no_grad():
        packed = _hidden_packed(speech.model, pack, NO_PROMPT, True, short=False)
        torch.testing.assert_close(_hidden_padded(speech.model, pack), packed, rtol=0, atol=1e-10)


def test_two_sounds_are_never_taken_for_one(speech: Spoken) -> None:
    both = [spoken(media, " one two") for media in (FIRST, THIRD)]
    with torch.no_grad():
        found = compute_pack_logprobs(speech.model, build_pack(speech.rows(both), share_from=1))
        expected = speech.plain(both)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    halves = expected.view(2, -1)
    assert (halves[0] - halves[1]).abs().max() > 1e-6


@pytest.mark.parametrize("moving", ["all", "audio", "language", "adapters"])
def test_gradients_are_the_plain_models(speech: Spoken, moving: str) -> None:
    model: Any = speech.model
    if moving == "adapters":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        names = ["q_proj", "k_proj", "v_proj", "fc1"]
        config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
        with silence_peft_warnings():
            model = get_peft_model(model, config).double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name if moving == "adapters" else moving in ("all", find_part(name)))
    try:
        _compare_gradients(speech, model, learns_sounds=moving != "language")
    finally:
        if moving == "adapters":
            model.unload()


def _compare_gradients(speech: Spoken, model: Any, *, learns_sounds: bool) -> None:
    rows = speech.rows()
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.linspace(0.5, 1.5, sum(len(row.targets) for row in rows), dtype=torch.float64)
    with Double():
        (speech.plain() * weights).sum().backward()
    expected = [parameter.grad for parameter in wanted]
    model.zero_grad()
    sums = [torch.zeros_like(parameter) for parameter in wanted]
    calls: list[int] = []
    found_towers = find_towers(speech.model)
    assert found_towers is not None
    run: Callable[..., Any] = found_towers.run
    found_towers.run = lambda model, keys: (calls.extend(keys), run(model, keys))[1]  # type: ignore[method-assign]
    packs = build_packs(rows, 24, share_from=1)
    assert len(packs) > 1
    numbers = {row.key: part for row, part in zip(rows, weights.split([len(row.targets) for row in rows]), strict=True)}
    try:
        with Double(), learn_media(model, lambda: list_row_media(rows)) as step:
            assert (step is not None) == learns_sounds
            for pack in packs:
                with gather_leaves() as leaves:
                    logp = compute_pack_logprobs(model, pack)
                own = torch.cat([numbers[key] for key in pack.keys])
                found = torch.autograd.grad((logp * own).sum(), [*wanted, *leaves.tensors], allow_unused=True)
                for total, value in zip(sums, found, strict=False):
                    total.add_(0 if value is None else value)
                if step is not None:
                    step.gather(leaves.name(found[len(wanted) :]))
            if step is not None:
                for total, value in zip(sums, step.gradients(wanted), strict=True):
                    total.add_(0 if value is None else value)
    finally:
        found_towers.run = run  # type: ignore[method-assign]
    assert len(calls) == len(set(calls)) == 3  # once for each sound
    for total, value in zip(sums, expected, strict=True):
        torch.testing.assert_close(total, torch.zeros_like(total) if value is None else value, rtol=0, atol=1e-10)


def test_a_frozen_encoder_reads_each_sound_once(whisper: Spoken) -> None:
    whisper.model.requires_grad_(requires_grad=False)
    found_towers = find_towers(whisper.model)
    assert found_towers is not None
    calls: list[int] = []
    encoder = whisper.model.get_encoder()
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        for _ in range(3):
            for pack in build_packs(whisper.rows(), 24, share_from=1):
                with torch.no_grad():
                    compute_pack_logprobs(whisper.model, pack)
    finally:
        hook.remove()
    assert len(calls) == 3


@pytest.mark.parametrize("suppresses", [True, False])
def test_greedy_transcripts_are_the_plain_models(speech: Spoken, suppresses: bool) -> None:
    model: Any = speech.model.requires_grad_(requires_grad=False)
    before = model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens
    if not suppresses:
        model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    prompts = [(FIRST, ""), (SECOND, ""), (THIRD, ""), (FIRST, "and so on")]
    asked = [spoken(media, "", prompt)[:1] for media, prompt in prompts if not prompt or "previous" in _tokens(speech)]
    ids = speech.text.prompts(asked)
    loaded = LoadedModel(model=model, folder=Path(), name="tiny", digest="0")
    try:
        found = generate(loaded, ids, 20, speech.text.end_ids)
        for messages, own, prompt in zip(asked, found, ids, strict=True):
            plain = torch.tensor([speech.text.plain_ids(prompt)])
            expected = _plain_transcript(model, speech.heard(messages), plain, 20)
            assert own == expected
    finally:
        model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = before


def _tokens(speech: Spoken) -> dict[str, int]:
    return dict(speech.text.media._tokens)  # type: ignore[union-attr]


def _plain_transcript(model: Any, heard: dict[str, Tensor], prompt: Tensor, count: int) -> list[int]:
    """What transformers' own generation writes after some decoder tokens."""
    from transformers.generation import GenerationMixin

    settings = model.generation_config
    written = GenerationMixin.generate(
        model, **heard, decoder_input_ids=prompt, max_new_tokens=count, do_sample=False, generation_config=settings
    )
    return [int(token) for token in written[0, prompt.shape[1] :]]


def test_a_row_alone_is_the_row_in_company(whisper: Spoken) -> None:
    loaded = LoadedModel(model=whisper.model, folder=Path(), name="tiny", digest="0")
    prompts = whisper.text.prompts([spoken(media, "")[:1] for media in (FIRST, SECOND, THIRD)])
    together = generate(loaded, prompts, 12, whisper.text.end_ids)
    assert together == [generate(loaded, [prompt], 12, whisper.text.end_ids)[0] for prompt in prompts]
