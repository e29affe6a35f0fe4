"""Generation answers each prompt as transformers would, whoever else is in the batch; options are scored exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from luthier.core.errors import DataError
from luthier.models.generate import generate, score_options, stream_token_ids
from luthier.models.generation.engine import SamplingParams, sample_top_p
from luthier.models.load import LoadedModel

SIZES: dict[str, Any] = {"vocab_size": 53, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
SHARED = [5, 9, 11, 3, 17, 20]
PROMPTS = [[*SHARED, 1, 2], [*SHARED, 7], [*SHARED, 4, 4, 8, 30, 2], [*SHARED, 7, 7], [*SHARED, 30]]


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def gemma() -> Any:
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **WINDOW, query_pre_attn_scalar=8))


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, state_size=4))


def opened(make: Any) -> LoadedModel:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.ndim > 1 and parameter.shape[-1] > 4 else 1)
    return LoadedModel(model=model, folder=Path(), name="tiny", digest="")


def greedy(model: Any, prompt: list[int], limit: int, stop: set[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("make", [llama, gemma, mamba])
@pytest.mark.parametrize("tokens", [20, 60, 16_384])
def test_each_prompt_is_answered_as_if_alone(make: Any, tokens: int) -> None:
    loaded = opened(make)
    free = [greedy(loaded.model, prompt, 9, set()) for prompt in PROMPTS]
    stop = {free[0][3], free[2][5]}
    wanted = [greedy(loaded.model, prompt, 9, stop) for prompt in PROMPTS]
    heard: list[tuple[int, int]] = []
    found = generate(loaded, PROMPTS, 9, stop, progress=lambda done, total: heard.append((done, total)), tokens=tokens)
    assert found == wanted
    assert heard[-1] == (5, 5)
    assert len({len(ids) for ids in found}) > 1
    assert list(stream_token_ids(loaded, PROMPTS[2], 9, stop)) == wanted[2]


def test_sampling_does_not_depend_on_the_batch() -> None:
    loaded = opened(llama)
    sampling = SamplingParams(temperature=1.5, top_p=0.9, seed=4)
    together = generate(loaded, PROMPTS, 8, set(), sampling=sampling)
    alone = generate(loaded, PROMPTS, 8, set(), sampling=sampling, tokens=1)
    assert together == alone
    assert together != generate(loaded, PROMPTS, 8, set(), sampling=SamplingParams(temperature=1.5, seed=5))
    assert generate(loaded, PROMPTS, 8, set(), sampling=SamplingParams(temperature=1e-4)) == generate(
        loaded, PROMPTS, 8, []
    )


def test_only_the_likeliest_tokens_are_drawn() -> None:
    shares = torch.tensor([0.1, 0.5, 0.05, 0.35])
    chance = torch.Generator().manual_seed(0)
    assert {sample_top_p(shares, 0.6, chance) for _ in range(60)} == {1, 3}
    assert {sample_top_p(shares, 0.01, chance) for _ in range(9)} == {1}
    assert {sample_top_p(shares, 1.0, chance) for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize("make", [llama, gemma, mamba])
def test_options_are_scored_as_separate_rows(make: Any) -> None:
    loaded = opened(make)
    options = [[[3, 4], [3], [9, 9, 9]], [[1], [2]], [[8, 8]], [[3]], [[4], [5, 6]]]
    found = score_options(loaded.model, PROMPTS, options, tokens=30)
    for prompt, own, scores in zip(PROMPTS, options, found, strict=True):
        for option, score in zip(own, scores, strict=True):
            ids = torch.tensor([[*prompt, *option]])
            logits = loaded.model(input_ids=ids, use_cache=False).logits[0].detach().double()
            logp = torch.log_softmax(logits, -1)
            wanted = sum(float(logp[len(prompt) - 1 + at, token]) for at, token in enumerate(option))
            assert score == pytest.approx(wanted, abs=2e-4)


def labelled(dtype: torch.dtype, tokens: int) -> tuple[list[list[float]], list[list[float]]]:
    """Scores of thirty labels after each prompt in a model of a dtype: in packs, and each row read alone."""
    model = opened(llama).model.to(dtype)
    labels = [[one, other, *more, 6] for one in (7, 8) for other in range(20, 25) for more in ([], [9], [9, 4])]
    found = score_options(model, PROMPTS, [labels] * len(PROMPTS), tokens=tokens)
    with torch.no_grad():
        logits = {
            (at, number): model(torch.tensor([[*prompt, *label]])).logits[0, len(prompt) - 1 : -1].double()
            for at, prompt in enumerate(PROMPTS)
            for number, label in enumerate(labels)
        }
    alone = [
        [
            float(logits[at, number].log_softmax(-1)[range(len(label)), label].sum())
            for number, label in enumerate(labels)
        ]
        for at in range(len(PROMPTS))
    ]
    return found, alone


@pytest.mark.parametrize("tokens", [60, 4096])
def test_labels_that_begin_alike_are_scored_exactly(tokens: int) -> None:
    found, alone = labelled(torch.float64, tokens)
    assert found == [pytest.approx(row, abs=1e-9) for row in alone]


def test_labels_in_bfloat16_are_those_of_float32_within_its_noise() -> None:
    narrow, _ = labelled(torch.bfloat16, 4096)
    _, wide = labelled(torch.float32, 4096)
    for mine, its in zip(narrow, wide, strict=True):
        assert mine == pytest.approx(its, rel=0.02, abs=0.1)
        assert its[mine.index(max(mine))] > max(its) - 0.2


@pytest.mark.parametrize("prompt", [[], [1] * 64])
def test_a_prompt_the_model_cannot_read_is_refused(prompt: list[int]) -> None:
    with pytest.raises(DataError, match=f"has {len(prompt)} tokens; the model reads 1 to 63"):
        generate(opened(llama), [prompt], 4, set())


@pytest.mark.parametrize("make", [llama, gemma, mamba])
def test_what_tells_whether_it_is_enough_ends_a_text(make: Any) -> None:
    loaded = opened(make)
    wanted = [greedy(loaded.model, prompt, 14, set()) for prompt in PROMPTS]
    stop = {wanted[0][3]}
    short = [ids[: ids.index(next(iter(stop))) + 1] if stop & set(ids) else ids for ids in wanted]
    assert generate(loaded, PROMPTS, 14, lambda ids: ids[-1] in stop) == short
    assert generate(loaded, PROMPTS, 0, stop) == [[]] * len(PROMPTS)
    assert list(stream_token_ids(loaded, PROMPTS[0], 0, stop)) == []
