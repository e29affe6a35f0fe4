"""The decoder writes for each ask what the model alone would write, whoever comes and goes, and says how likely."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, ModelError
from luthier.models.generate import generate
from luthier.models.generation.backends import BatchedBackend
from luthier.models.generation.cpu_decoder import activate_adapter
from luthier.models.generation.engine import (
    BASE,
    ContinuousBatchingDecoder,
    GenerationRequest,
    SamplingParams,
    TokenOutput,
)
from luthier.models.kernels.calls import disable_kernels
from luthier.models.kernels.linear_ops import get_row_kernels
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.load import LoadedModel, load_model
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.quiet import silence_peft_warnings
from models.architectures import OTHER_HEAD, PACKED, PADDED, adapted, tiny

SYSTEM = random.Random(5).choices(range(61), k=40)
PROMPTS = [[*SYSTEM, 1, 2], [*SYSTEM, 7], [3, 4], [*SYSTEM[:20], 7, 7], [*SYSTEM, 1, 2], list(range(60))]


def opened(model: Any) -> LoadedModel:
    return LoadedModel(model=model, folder=Path(), name="tiny", digest="")


def written_by(family: str, **more: Any) -> Any:
    """A tiny model in float32 that does not say the same all the time."""
    model = tiny(family, **more).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


def llama(**more: Any) -> Any:
    return written_by("llama", **more)


def alone(model: Any, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def finished(decoder: ContinuousBatchingDecoder, tickets: list[int]) -> dict[int, list[TokenOutput]]:
    """What is written for each ticket until all are done."""
    found: dict[int, list[TokenOutput]] = {ticket: [] for ticket in tickets}
    while not all(own and own[-1].finish for own in found.values()):
        for one in decoder.step():
            found.setdefault(one.ticket, []).append(one)
    return found


def admitted(decoder: ContinuousBatchingDecoder, ask: GenerationRequest) -> int:
    ticket = decoder.admit(ask)
    assert ticket is not None
    return ticket


def ids_of(decoder: ContinuousBatchingDecoder, asks: list[GenerationRequest]) -> list[list[int]]:
    tickets = [admitted(decoder, ask) for ask in asks]
    found = finished(decoder, tickets)
    return [[one.token for one in found[ticket]] for ticket in tickets]


def greedily(prompt: list[int], limit: int = 12, **more: Any) -> GenerationRequest:
    return GenerationRequest(ids=prompt, max_new_tokens=limit, stop=(), **more)


@pytest.mark.parametrize("family", [*PACKED, *PADDED, *OTHER_HEAD])
def test_every_architecture_is_written_as_transformers_writes_it(family: str) -> None:
    model = written_by(family)
    decoder = ContinuousBatchingDecoder(opened(model))
    wanted = [alone(model, prompt, 7) for prompt in PROMPTS]  # into another block of tokens
    assert ids_of(decoder, [greedily(prompt, 7) for prompt in PROMPTS]) == wanted
    assert ids_of(decoder, [greedily(prompt, 7) for prompt in reversed(PROMPTS)]) == wanted[::-1]  # from a warm cache


def test_what_was_read_is_found_again() -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()))
    first = admitted(decoder, greedily(PROMPTS[0], 30))
    assert decoder.cached_tokens(first) == 0
    written = [one.token for one in finished(decoder, [first])[first]]
    assert decoder.cached == 64  # whole blocks of 42 + 29 tokens
    second = admitted(decoder, greedily([*PROMPTS[0], *written[:10], 5], 3))
    assert decoder.cached_tokens(second) == 48
    finished(decoder, [second])
    assert decoder.cached_tokens(second) == 48


def test_the_same_prompt_is_read_once_by_those_who_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()))
    read: list[int] = []
    own = BatchedBackend.read

    def counted(self: BatchedBackend, portions: Any) -> Any:
        read.extend(portion.tokens for portion in portions)
        return own(self, portions)

    monkeypatch.setattr(BatchedBackend, "read", counted)
    tickets = [admitted(decoder, greedily([*SYSTEM[:32], at], 2)) for at in range(8)]
    finished(decoder, tickets)
    assert sum(read) == 33 + 7 + 8


def test_room_is_bounded_and_used_again() -> None:
    model = llama()
    decoder = ContinuousBatchingDecoder(opened(model), tokens=80)
    wanted = {at: alone(model, PROMPTS[at], 6) for at in (0, 2, 3, 5)}
    first, second = admitted(decoder, greedily(PROMPTS[0], 6)), admitted(decoder, greedily(PROMPTS[2], 6))
    assert decoder.admit(greedily(PROMPTS[3], 6)) is None
    decoder.cancel(second)
    decoder.cancel(second)
    third = admitted(decoder, greedily(PROMPTS[3], 6))
    found = finished(decoder, [first, third])
    assert second not in found
    assert [one.token for one in found[first]] == wanted[0]
    assert [one.token for one in found[third]] == wanted[3]
    assert ids_of(decoder, [greedily(PROMPTS[5], 6)]) == [wanted[5]]  # others' blocks are let go for it
    assert decoder.admit(greedily(PROMPTS[5], 60)) is None
    decoder.close()
    assert decoder.step() == []


def test_a_long_prompt_does_not_stall_others() -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()), portion=16)
    short = admitted(decoder, greedily([3, 4], 20))
    decoder.step()
    long = admitted(decoder, greedily(PROMPTS[5], 3))
    steps = [[one.ticket for one in decoder.step()] for _ in range(5)]
    assert steps == [[short]] * 3 + [[short, long]] * 2


def test_log_probabilities_are_those_of_training() -> None:
    model = llama()
    decoder = ContinuousBatchingDecoder(opened(model))
    drawn = SamplingParams(temperature=0.8, top_p=0.9, seed=3)
    asks = [
        GenerationRequest(ids=prompt, max_new_tokens=9, stop=(), sampling=drawn, top_logprobs=3, stream=5)
        for prompt in PROMPTS
    ]
    tickets = [admitted(decoder, ask) for ask in asks]
    found = finished(decoder, tickets)
    rows = [
        TokenRow([*prompt, *(one.token for one in found[ticket])], [0.0] * len(prompt) + [1.0] * 9)
        for prompt, ticket in zip(PROMPTS, tickets, strict=True)
    ]
    with torch.no_grad():
        wanted = compute_pack_logprobs(model, build_pack(rows))
    told = torch.tensor([one.logprob for ticket in tickets for one in found[ticket]])
    torch.testing.assert_close(told, wanted, atol=1e-4, rtol=0)
    for one in found[tickets[0]]:
        assert len(one.top) == 3
        assert one.top[0][1] >= one.top[1][1] >= one.top[2][1]
        assert all(value == pytest.approx(one.logprob) for token, value in one.top if token == one.token)


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-45, 1e-9, 1e-4])
def test_the_lowest_temperature_takes_the_likeliest(temperature: float) -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()))
    cold = GenerationRequest(
        ids=SYSTEM, max_new_tokens=8, stop=(), sampling=SamplingParams(temperature=temperature, top_p=0.5)
    )
    assert ids_of(decoder, [cold]) == ids_of(decoder, [greedily(SYSTEM, 8)])


@pytest.mark.parametrize("top_p", [1e-300, 1e-46, 1e-9])
def test_the_smallest_share_takes_the_likeliest(top_p: float) -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()))
    narrow = GenerationRequest(
        ids=SYSTEM, max_new_tokens=8, stop=(), sampling=SamplingParams(temperature=1.0, top_p=top_p)
    )
    assert ids_of(decoder, [narrow]) == ids_of(decoder, [greedily(SYSTEM, 8)])


def test_a_grammar_says_what_may_come() -> None:
    model = llama()
    even = torch.arange(61) % 2 == 0
    heard: list[list[int]] = []

    def allowed(ids: Any) -> torch.Tensor | None:
        heard.append(list(ids))
        return None if len(ids) == 2 else even

    decoder = ContinuousBatchingDecoder(opened(model))
    for sampling in (SamplingParams(), SamplingParams(temperature=3.0, top_p=0.99)):
        ask = GenerationRequest(ids=SYSTEM, max_new_tokens=8, stop=(), allowed=allowed, sampling=sampling)
        (ids,) = ids_of(decoder, [ask])
        assert all(one % 2 == 0 for at, one in enumerate(ids) if at != 2)
        assert heard[-1] == ids[:-1]


def test_it_ends_where_a_stop_or_the_context_is() -> None:
    model = llama()
    decoder = ContinuousBatchingDecoder(opened(model))
    free = alone(model, SYSTEM, 12)
    stopped = admitted(decoder, GenerationRequest(ids=SYSTEM, max_new_tokens=12, stop={free[4]}))
    length = admitted(decoder, greedily(SYSTEM, 3))
    context = admitted(decoder, greedily([1] * 120, 50))
    found = finished(decoder, [stopped, length, context])
    assert [one.finish for one in found[stopped]][-1] == "stop"
    assert [one.finish for one in found[length]] == [None, None, "length"]
    assert (len(found[context]), found[context][-1].finish) == (8, "length")
    with pytest.raises(DataError, match="the prompt has 128 tokens; the model reads 1 to 127"):
        decoder.admit(greedily([1] * 128))
    with pytest.raises(DataError, match="the prompt has the token -1; the model knows 0 to 60"):
        decoder.admit(greedily([3, -1]))
    with pytest.raises(DataError, match="0 new tokens are asked"):
        decoder.admit(greedily([1], 0))


def two_adapters() -> Any:
    model = adapted(llama())
    with silence_peft_warnings():
        model.add_adapter("other", LoraConfig(r=5, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.other" in name:
                parameter.normal_(std=0.3)
    return model.float().eval()


def test_each_ask_is_written_by_its_own_adapter() -> None:
    model = two_adapters()
    wanted = {}
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        wanted[adapter] = alone(model, PROMPTS[0], 10)
    model.set_adapter("default")
    with model.disable_adapter():
        wanted[BASE] = alone(model, PROMPTS[0], 10)
    learning = {name: one.requires_grad for name, one in model.named_parameters()}
    decoder = ContinuousBatchingDecoder(opened(model))
    names = [None, "other", BASE, "default", "other"]
    found = ids_of(decoder, [greedily(PROMPTS[0], 10, adapter=name) for name in names])
    assert found == [wanted["default" if name is None else name] for name in names]
    assert len({tuple(ids) for ids in found}) == 3
    assert {name: one.requires_grad for name, one in model.named_parameters()} == learning
    with pytest.raises(ModelError, match="no adapter 'third' is loaded"):
        decoder.admit(greedily([1], 4, adapter="third"))


def test_a_model_without_adapters_knows_none() -> None:
    decoder = ContinuousBatchingDecoder(opened(llama()))
    assert decoder.admit(greedily([1], 4, adapter=BASE)) == 0
    with pytest.raises(ModelError, match="no adapter 'x' is loaded"):
        decoder.admit(greedily([1], 4, adapter="x"))


MODEL = two_adapters()
ALONE: dict[tuple[str | None, tuple[int, ...]], list[int]] = {}


def alone_with(adapter: str | None, prompt: tuple[int, ...]) -> list[int]:
    """What an adapter of the model would write, remembered."""
    if (adapter, prompt) not in ALONE:
        with activate_adapter(MODEL, adapter):
            ALONE[adapter, prompt] = alone(MODEL, list(prompt), 20)
    return ALONE[adapter, prompt]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nobody_is_disturbed_by_those_who_come_and_go(data: st.DataObject) -> None:
    decoder = ContinuousBatchingDecoder(opened(MODEL), tokens=data.draw(st.sampled_from([112, 400])))
    going: dict[int, tuple[str | None, tuple[int, ...], int]] = {}
    found: dict[int, list[TokenOutput]] = {}
    for _ in range(data.draw(st.integers(3, 25))):
        what = data.draw(st.sampled_from(["admit", "admit", "step", "step", "cancel"]))
        if what == "admit":
            cut = data.draw(st.integers(1, 40))
            prompt = (*SYSTEM[:cut], *data.draw(st.lists(st.integers(0, 3), max_size=2)))
            limit = data.draw(st.integers(1, 20))
            adapter = data.draw(st.sampled_from([None, None, BASE, "other"]))
            ticket = decoder.admit(greedily(list(prompt), limit, adapter=adapter))
            if ticket is not None:
                going[ticket] = (adapter, prompt, limit)
        elif what == "cancel" and going:
            ticket = data.draw(st.sampled_from(sorted(going)))
            decoder.cancel(ticket)
            del going[ticket]
        else:
            for one in decoder.step():
                found.setdefault(one.ticket, []).append(one)
    left = [ticket for ticket in going if not (found.get(ticket) and found[ticket][-1].finish)]
    while left:
        for one in decoder.step():
            found.setdefault(one.ticket, []).append(one)
        left = [ticket for ticket in left if not (found.get(ticket) and found[ticket][-1].finish)]
    for ticket, (adapter, prompt, limit) in going.items():
        assert [one.token for one in found[ticket]] == alone_with(adapter, prompt)[:limit]
    assert decoder.step() == []


def numbers(decoder: ContinuousBatchingDecoder, asks: list[GenerationRequest]) -> list[list[tuple[int, float]]]:
    """Tokens and their log-probabilities, to the last bit."""
    tickets = [admitted(decoder, ask) for ask in asks]
    found = finished(decoder, tickets)
    return [[(one.token, one.logprob) for one in found[ticket]] for ticket in tickets]


STRANGERS = [[*SYSTEM[at : at + 3 * at], 60 - at, at, 3 * at] for at in range(1, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral-window", "gemma3", "phi3", "neox", "mamba"])
def test_numbers_are_the_same_in_any_company_to_the_last_bit(family: str, dtype: torch.dtype) -> None:
    if get_row_kernels() is None:
        pytest.skip("no kernels here: torch's sums depend on how many rows there are")
    model = written_by(family).to(dtype)
    ask = greedily(PROMPTS[0])
    (alone,) = numbers(ContinuousBatchingDecoder(opened(model)), [ask])
    decoder = ContinuousBatchingDecoder(opened(model))
    assert numbers(decoder, [*map(greedily, STRANGERS), ask])[-1] == alone
    assert numbers(decoder, [ask]) == [alone]  # its prompt is found again
    warm = ContinuousBatchingDecoder(opened(model))
    numbers(warm, [greedily(SYSTEM[:33])])
    assert numbers(warm, [greedily([3, 4]), ask])[-1] == alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "mamba"])
def test_adapters_read_as_one_product_are_written_the_same_in_any_company(family: str, dtype: torch.dtype) -> None:
    if get_row_kernels() is None:
        pytest.skip("no kernels here: torch's sums depend on how many rows there are")
    model = adapted(written_by(family)).to(dtype)
    assert install_fused_lora(model) > 0
    ask = greedily(PROMPTS[0])
    (alone,) = numbers(ContinuousBatchingDecoder(opened(model)), [ask])
    decoder = ContinuousBatchingDecoder(opened(model))
    assert numbers(decoder, [*map(greedily, STRANGERS), ask])[-1] == alone
    assert install_fused_lora(model) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_no_bit(threads: int) -> None:
    if get_row_kernels() is None:
        pytest.skip("no kernels here")
    before = torch.get_num_threads()
    model = written_by("llama", hidden_size=512, intermediate_size=1024)
    try:
        torch.set_num_threads(threads)
        found = numbers(ContinuousBatchingDecoder(opened(model)), [greedily(prompt, 6) for prompt in PROMPTS])
        torch.set_num_threads(3 - threads)
        assert numbers(ContinuousBatchingDecoder(opened(model)), [greedily(prompt, 6) for prompt in PROMPTS]) == found
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss", "deepseek-v3"])
def test_torch_writes_the_same_without_kernels(family: str) -> None:
    model = written_by(family)
    wanted = [alone(model, prompt, 8) for prompt in PROMPTS]
    with disable_kernels():
        decoder = ContinuousBatchingDecoder(opened(model))
        assert ids_of(decoder, [greedily(prompt, 8) for prompt in PROMPTS]) == wanted
        assert ids_of(decoder, [greedily(prompt, 8) for prompt in PROMPTS]) == wanted


def test_what_was_read_with_other_weights_is_not_found() -> None:
    model = llama()
    decoder = ContinuousBatchingDecoder(opened(model))
    ids_of(decoder, [greedily(PROMPTS[0], 10)])
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(-1)
    assert ids_of(decoder, [greedily(PROMPTS[0], 10)]) == [alone(model, PROMPTS[0], 10)]
    model.model.layers[1].mlp.up_proj.weight.data = -model.model.layers[1].mlp.up_proj.weight.data
    assert ids_of(decoder, [greedily(PROMPTS[0], 10)]) == [alone(model, PROMPTS[0], 10)]


def test_an_adapter_that_is_loaded_later_speaks_too() -> None:
    model = adapted(llama()).float()
    decoder = ContinuousBatchingDecoder(opened(model))
    ids_of(decoder, [greedily(PROMPTS[0], 6)])
    with silence_peft_warnings():
        model.add_adapter("late", LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.late" in name:
                parameter.normal_(std=0.5)
    found = ids_of(decoder, [greedily(PROMPTS[0], 8, adapter="late"), greedily(PROMPTS[0], 8)])
    default = alone(model, PROMPTS[0], 8)
    model.set_adapter("late")
    assert found == [alone(model, PROMPTS[0], 8), default]


def test_dora_is_written_by_its_own_modules() -> None:
    with silence_peft_warnings():
        made = get_peft_model(
            llama(), LoraConfig(r=3, target_modules=["q_proj", "up_proj"], use_dora=True, task_type="CAUSAL_LM")
        )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    made = made.float().eval()
    found = ids_of(
        ContinuousBatchingDecoder(opened(made)), [greedily(PROMPTS[0], 8), greedily(PROMPTS[0], 8, adapter=BASE)]
    )
    wanted = alone(made, PROMPTS[0], 8)
    with made.disable_adapter():
        assert found == [wanted, alone(made, PROMPTS[0], 8)]


def test_a_model_that_learns_is_written_without_dropout() -> None:
    with silence_peft_warnings():
        lora = LoraConfig(r=3, target_modules=["qkv_proj"], lora_dropout=0.9, task_type="CAUSAL_LM")
        model = get_peft_model(written_by("phi3"), lora).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    found = ids_of(ContinuousBatchingDecoder(opened(model)), [greedily(PROMPTS[0], 8)])
    assert model.training
    assert found == [alone(model.eval(), PROMPTS[0], 8)]


TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time there was a ferryman who",
    "Q: What is 17 + 25?\nA:",
]


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_real_model_writes_the_same_in_any_company(smollm2: Artifact, dtype: Any) -> None:
    loaded = load_model(smollm2, dtype)
    tokenizer = AutoTokenizer.from_pretrained(loaded.folder)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    shared = tokenizer("You are a careful assistant. Answer in one sentence, and say so when you do not know. ")
    long = [[*shared["input_ids"] * 3, *prompt] for prompt in prompts]
    asks = [greedily(prompt, 24) for prompt in [*prompts, *long]]
    singly = [numbers(ContinuousBatchingDecoder(loaded), [ask])[0] for ask in asks]
    together = ContinuousBatchingDecoder(loaded)
    assert numbers(together, asks + asks) == singly + singly
    assert numbers(together, asks[::-1]) == singly[::-1]
    evaluated = generate(loaded, [list(ask.ids) for ask in asks], 24, ())
    assert evaluated == [[token for token, _ in one] for one in singly]
    if dtype == "float32":
        for ask, written in zip(asks, evaluated, strict=True):
            with torch.no_grad():  # in one pass: each token is transformers' likeliest after those before it
                logits = loaded.model(input_ids=torch.tensor([[*ask.ids, *written]])).logits
            assert logits[0, len(ask.ids) - 1 : -1].argmax(-1).tolist() == written


@pytest.mark.slow
@pytest.mark.model
def test_the_real_models_log_probabilities_are_those_of_training(smollm2: Artifact) -> None:
    loaded = load_model(smollm2, "float32")
    tokenizer = AutoTokenizer.from_pretrained(loaded.folder)
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    sampling = SamplingParams(temperature=1.0, seed=2)
    asks = [
        GenerationRequest(ids=ids, max_new_tokens=8, stop=(), sampling=sampling, stream=at)
        for at, ids in enumerate(prompts)
    ]
    found = numbers(ContinuousBatchingDecoder(loaded), asks)
    rows = [
        TokenRow([*ids, *(token for token, _ in own)], [0.0] * len(ids) + [1.0] * 8)
        for ids, own in zip(prompts, found, strict=True)
    ]
    with torch.no_grad():
        wanted = compute_pack_logprobs(loaded.model, build_pack(rows))
    told = torch.tensor([value for own in found for _, value in own])
    assert (told - wanted).abs().max() <= 1e-3


def test_another_thread_that_opens_a_model_disturbs_nobody() -> None:
    """Transformers changes torch's default dtype for the whole process meanwhile; half the room was then too little."""
    model = llama()
    before = torch.get_default_dtype()
    wanted = finished(
        decoder := ContinuousBatchingDecoder(opened(model)), [decoder.admit(greedy(ids)) for ids in PROMPTS]
    )  # type: ignore[misc]  # there is room
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = finished(
            decoder := ContinuousBatchingDecoder(opened(model)), [decoder.admit(greedy(ids)) for ids in PROMPTS]
        )  # type: ignore[misc]
    finally:
        torch.set_default_dtype(before)
    assert [[(one.token, one.logprob) for one in found[at]] for at in found] == [
        [(one.token, one.logprob) for one in wanted[at]] for at in wanted
    ]


def greedy(ids: list[int]) -> GenerationRequest:
    return GenerationRequest(ids=ids, max_new_tokens=8, stop=())
