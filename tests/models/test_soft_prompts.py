"""A pack below virtual tokens reads each row as PEFT's own forward does, in value and gradient; so does generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch import Tensor

from luthier.core.errors import DataError, ModelError
from luthier.models.adapters import SoftPrompt, compute_soft_prompt
from luthier.models.generate import generate, score_options, stream_token_ids
from luthier.models.generation.engine import SamplingParams
from luthier.models.load import LoadedModel
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack, build_packs, pad_pack_size
from luthier.models.quiet import silence_peft_warnings
from models.architectures import Double, forest, gradients, tiny

COUNT = 7  # more than the sliding windows of the tiny models
COMMON: dict[str, Any] = {"num_virtual_tokens": COUNT, "task_type": "CAUSAL_LM"}
KINDS: dict[str, Callable[[], Any]] = {
    "prompt": lambda: PromptTuningConfig(**COMMON),
    "p_tuning": lambda: PromptEncoderConfig(**COMMON, encoder_hidden_size=12),
    "p_tuning-lstm": lambda: PromptEncoderConfig(
        **COMMON, encoder_hidden_size=12, encoder_reparameterization_type="LSTM"
    ),
    "prefix": lambda: PrefixTuningConfig(**COMMON),
    "prefix-projected": lambda: PrefixTuningConfig(**COMMON, prefix_projection=True, encoder_hidden_size=12),
}
ROWS = [row for row in forest() if row.targets]
PROMPTS = [[5, 9, 11, 3, 17, 20, 1, 2], [5, 9, 11, 3, 7], [5, 9, 11, 3, 4, 4, 8, 30, 2], [8], [5, 9, 11, 3, 30]]


def tuned(family: str, kind: str) -> Any:
    """A tiny float64 model with a random soft prompt that learns."""
    with silence_peft_warnings():
        model = tiny(family)
        if family == "bloom":
            del model.config.num_key_value_heads  # it has none, and PEFT would believe it
        torch.manual_seed(3)
        return get_peft_model(model, KINDS[kind]()).double().eval()


def alone(model: Any, row: TokenRow) -> Tensor:
    """Log-probabilities of one row's learnt tokens by PEFT's own forward."""
    ids = torch.tensor([row.ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(row.ids) :]
    found = torch.log_softmax(logits, -1)
    return torch.stack([found[at - 1, row.ids[at]] for at in row.targets])


def assert_as_peft(model: Any, read: Callable[[], Tensor]) -> None:
    wanted = torch.cat([alone(model, row) for row in ROWS])
    weights = torch.sin(torch.arange(len(wanted), dtype=torch.float64) + 1)
    wanted_gradients = gradients(model, (wanted * weights).sum())
    found = read()
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
    found_gradients = gradients(model, (found * weights).sum())
    assert found_gradients.keys() == wanted_gradients.keys()
    assert all(name.startswith("prompt_encoder") for name in found_gradients)
    for name, gradient in wanted_gradients.items():
        assert gradient.abs().max() > 1e-6 or "embedding" not in name
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-10, rtol=1e-10)


CASES = [
    *[(family, kind) for family in ("llama", "gemma3") for kind in KINDS],
    *[(family, kind) for family in ("qwen3", "gpt2", "mistral-window", "phi3") for kind in ("prompt", "prefix")],
]


@pytest.mark.parametrize("quick", [True, False], ids=["blocks", "dense"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_packed_row_reads_as_in_peft(family: str, kind: str, quick: bool) -> None:
    with Double(), silence_peft_warnings():
        model = tuned(family, kind)
        assert detect_forward_mode(model).packed
        assert_as_peft(model, lambda: compute_pack_logprobs(model, build_pack(ROWS, share_from=3), quick=quick))


@pytest.mark.parametrize(("family", "kind"), [("bloom", "prompt"), ("bloom", "prefix"), ("mamba", "prompt")])
def test_a_padded_row_reads_as_in_peft(family: str, kind: str) -> None:
    with Double(), silence_peft_warnings():
        model = tuned(family, kind)
        assert not detect_forward_mode(model).packed
        assert_as_peft(model, lambda: compute_pack_logprobs(model, build_pack(ROWS)))


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_neighbours_change_nothing(kind: str) -> None:
    with Double(), torch.no_grad():
        model = tuned("gemma3", kind)
        together = compute_pack_logprobs(model, build_pack(ROWS, share_from=3))
        apart = torch.cat([compute_pack_logprobs(model, build_pack([row])) for row in ROWS])
        torch.testing.assert_close(together, apart, atol=1e-12, rtol=0)


def test_virtual_tokens_stand_once_above_every_row() -> None:
    plain = build_pack([*ROWS, TokenRow([4, 5], [0.0, 0.0])], share_from=3)
    whole = SoftPrompt(COUNT).above(plain)
    assert whole.tokens == plain.tokens + COUNT
    for row in range(plain.rows - 1):
        assert whole.spans(row)[0] == slice(0, COUNT)
        assert whole.unpack()[row] == [0] * COUNT + plain.unpack()[row]
        steps = torch.cat([whole.positions[span] for span in whole.spans(row)])
        assert steps.tolist() == list(range(len(steps)))
    assert whole.spans(plain.rows - 1) == []
    assert torch.equal(whole.ids[whole.sources], plain.ids[plain.sources])
    assert pad_pack_size(whole).tokens % 8 == 0


def test_a_soft_prompt_that_is_switched_off_is_not_read() -> None:
    model = tuned("llama", "prefix")
    packed = build_pack(ROWS)
    with torch.no_grad(), silence_peft_warnings():
        on = compute_pack_logprobs(model, packed)
        with model.disable_adapter():
            assert compute_soft_prompt(model).count == 0
            torch.testing.assert_close(
                compute_pack_logprobs(model, packed), compute_pack_logprobs(model.get_base_model(), packed)
            )
        assert (compute_pack_logprobs(model, packed) - on).abs().max() == 0


def test_other_prompts_are_refused() -> None:
    model = tuned("llama", "prompt")
    assert compute_soft_prompt(model).count == COUNT
    model.active_peft_config.peft_type = type(model.active_peft_config.peft_type).CARTRIDGE
    with pytest.raises(ModelError, match="CARTRIDGE adapters cannot be read"):
        compute_soft_prompt(model)


def greedy(model: Any, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    for _ in range(limit):
        seen = torch.tensor([ids])
        ids.append(int(model(input_ids=seen, attention_mask=torch.ones_like(seen)).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["prompt", "p_tuning", "prefix"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_it_writes_what_peft_writes(family: str, kind: str) -> None:
    with silence_peft_warnings(), torch.no_grad():
        loaded = LoadedModel(model=tuned(family, kind), folder=Path(), name="tiny", digest="")
        wanted = [greedy(loaded.model, prompt, 6) for prompt in PROMPTS]
        assert generate(loaded, PROMPTS, 6, set()) == wanted
        assert generate(loaded, PROMPTS, 6, set(), tokens=1) == wanted
        assert (
            list(stream_token_ids(loaded, PROMPTS[2], 6, {wanted[2][3]}))
            == wanted[2][: wanted[2].index(wanted[2][3]) + 1]
        )
        sampling = SamplingParams(temperature=1.2, seed=4)
        together = generate(loaded, PROMPTS, 6, set(), sampling=sampling)
        assert together == generate(loaded, PROMPTS, 6, set(), sampling=sampling, tokens=1)
        assert together != wanted


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_it_writes_what_pefts_generate_writes_without_a_cache() -> None:
    """PEFT 0.21 does not find transformers 5.24's cache, and would put the virtual tokens before every new token."""
    with silence_peft_warnings(), torch.no_grad():
        loaded = LoadedModel(model=tuned("llama", "prompt"), folder=Path(), name="tiny", digest="")
        ids = torch.tensor([PROMPTS[0]])
        limits: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        wanted = loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **limits)
        assert generate(loaded, PROMPTS[:1], 6, set()) == [wanted[0, ids.shape[1] :].tolist()]


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_options_are_scored_as_peft_scores_them(kind: str) -> None:
    options = [[[3, 4], [3], [9, 9, 9]], [[1], [2]], [[8, 8]], [[3]], [[4], [5, 6]]]
    with silence_peft_warnings(), torch.no_grad():
        model = tuned("llama", kind)
        found = score_options(model, PROMPTS, options, tokens=30)
        for prompt, own, scores in zip(PROMPTS, options, found, strict=True):
            for option, score in zip(own, scores, strict=True):
                row = TokenRow([*prompt, *option], [0.0] * len(prompt) + [1.0] * len(option))
                assert score == pytest.approx(float(alone(model, row).sum()), abs=1e-6)


def test_virtual_tokens_count_where_the_context_ends() -> None:
    loaded = LoadedModel(model=tuned("gpt2", "prompt"), folder=Path(), name="tiny", digest="")
    with pytest.raises(DataError, match="prompt 0 has 122 tokens; the model reads 1 to 120"):
        generate(loaded, [[1] * 122], 4, set())


def test_a_stateful_model_goes_on_from_its_virtual_tokens() -> None:
    with silence_peft_warnings(), torch.no_grad():
        loaded = LoadedModel(model=tuned("mamba", "prompt"), folder=Path(), name="tiny", digest="")
        assert generate(loaded, PROMPTS, 5, set()) == [greedy(loaded.model, prompt, 5) for prompt in PROMPTS]


def test_splitting_into_packs_changes_nothing() -> None:
    with Double(), torch.no_grad():
        model = tuned("llama", "prompt")
        whole = compute_pack_logprobs(model, build_pack(ROWS)).sum()
        parts = sum(compute_pack_logprobs(model, part).sum() for part in build_packs(ROWS, 30))
        torch.testing.assert_close(whole, parts)
