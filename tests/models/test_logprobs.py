"""Log-probabilities in pieces equal those of whole logits, for frozen, trained, tied, biased and shaped heads."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.models.kernels.calls import disable_kernels
from luthier.models.packing import head as heads
from luthier.models.packing.head import LogitTransform, OutputHead, transform_logits
from luthier.models.packing.logprobs import compute_pack_logprobs, compute_top_tokens, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack

SHAPES = [LogitTransform(1.0, None), LogitTransform(0.25, None), LogitTransform(1.0, 3.0), LogitTransform(2.0, 1.5)]


@pytest.mark.parametrize(("shape", "trained", "bias"), [*product(SHAPES, [False, True], [False, True])])
def test_pieces_equal_whole_logits(
    shape: LogitTransform, trained: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PIECE_BYTES", 0)  # sixteen rows a piece
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 29, bias=bias, dtype=torch.float64).requires_grad_(trained)
    states = torch.randn(37, 8, dtype=torch.float64, requires_grad=True)
    targets, up = torch.randint(29, (37,)), torch.randn(37, dtype=torch.float64)
    likeliest_ids = transform_logits(linear(states), shape).argmax(-1)
    targets[::2] = likeliest_ids[::2]
    leaves = [states, *(linear.parameters() if trained else ())]
    whole = torch.log_softmax(transform_logits(linear(states), shape), -1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad((whole * up).sum(), leaves)
    first = torch.zeros(37, dtype=torch.bool)
    found = OutputHead(linear, shape).logprobs(states, targets, first=first)
    torch.testing.assert_close(found, whole)
    assert torch.equal(first, targets == likeliest_ids)
    for one, other in zip(torch.autograd.grad((found * up).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("shape", "trained", "heat"), [*product(SHAPES, [False, True], [1.0, 2.5])])
def test_choices_equal_whole_logits(
    shape: LogitTransform, trained: bool, heat: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PIECE_BYTES", 0)
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 29, dtype=torch.float64).requires_grad_(trained)
    states = torch.randn(37, 8, dtype=torch.float64, requires_grad=True)
    targets, up = torch.randint(29, (37,)), torch.randn(37, 5, dtype=torch.float64)
    choices = torch.rand(37, 29).topk(4).indices
    leaves = [states, *(linear.parameters() if trained else ())]
    logits = transform_logits(linear(states), shape)
    one = torch.log_softmax(logits, -1).gather(1, targets[:, None])
    whole = torch.cat([one, torch.log_softmax(logits / heat, -1).gather(1, choices)], 1)
    wanted = torch.autograd.grad((whole * up).sum(), leaves)
    head = OutputHead(linear, shape)
    found = head.choices(states, targets, choices, temperature=heat)
    torch.testing.assert_close(found, whole)
    for got, other in zip(torch.autograd.grad((found * up).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(got, other)
    ids, values = head.top(states, 3, below=20, temperature=heat)
    best = torch.log_softmax(logits / heat, -1)[:, :20].topk(3)
    assert torch.equal(ids, best.indices)
    torch.testing.assert_close(values, best.values.detach())


def test_many_targets_after_one_state_equal_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.models.packing.head.PIECE_BYTES", 1)
    torch.manual_seed(3)
    linear = torch.nn.Linear(8, 30, bias=False).double()
    hidden = torch.randn(40, 8, dtype=torch.float64)
    places, targets = torch.randint(40, (90,)), torch.randint(30, (90,))
    wanted = torch.log_softmax(linear(hidden)[places], -1).gather(1, targets[:, None])[:, 0]
    best, first = linear(hidden)[places].argmax(-1), torch.zeros(90, dtype=torch.bool)
    targets[::2], wanted[::2] = best[::2], torch.log_softmax(linear(hidden)[places], -1).amax(-1)[::2]
    torch.testing.assert_close(
        OutputHead(linear, LogitTransform()).given(hidden, places, targets, first=first), wanted.detach()
    )
    assert torch.equal(first, targets == best)


@pytest.mark.parametrize("understood", [True, False])
def test_a_pack_with_choices_is_read_at_its_targets_and_choices(understood: bool) -> None:
    made = model(torch.float64)
    if not understood:  # a head that does more than a linear layer: the model's own logits are used
        made.lm_head = torch.nn.Sequential(made.lm_head)
        made.get_output_embeddings = lambda: made.lm_head
    assert (detect_forward_mode(made).head is not None) is understood
    taught = compute_top_tokens(made, build_pack(rows()), 6, below=100, temperature=2.0)
    assert taught.choices is not None
    assert int(taught.choices.max()) < 100
    found = compute_pack_logprobs(made, taught)
    assert found.shape == (10, 7)
    torch.testing.assert_close(found[:, 1:], taught.teacher)
    torch.testing.assert_close(found[:, 0], compute_pack_logprobs(made, build_pack(rows())))


def model(dtype: torch.dtype, tied: bool = True) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 211, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    made = LlamaForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        made.get_input_embeddings().weight.mul_(20)
    return made


def rows() -> list[TokenRow]:
    torch.manual_seed(2)
    return [TokenRow(torch.randint(211, (12,)).tolist(), [0.0] * 10 + [1.0] * 2) for _ in range(5)]


def test_a_bf16_model_gives_fp32_log_probabilities_as_exact_as_an_fp32_head() -> None:
    made = model(torch.bfloat16)
    packed = build_pack(rows())
    with torch.no_grad():
        found = compute_pack_logprobs(made, packed)
        hidden = made.model(input_ids=packed.ids[None], use_cache=False).last_hidden_state  # rows share nothing
        assert hidden.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    head = detect_forward_mode(made).head
    assert head is not None
    states = torch.randn(64, 32).to(torch.bfloat16)
    targets = torch.randint(211, (64,))
    exact = torch.log_softmax(states.double() @ made.lm_head.weight.double().t(), -1).gather(1, targets[:, None])[:, 0]
    with torch.no_grad():
        precise = (head.logprobs(states, targets).double() - exact).abs().max()
        with disable_kernels():
            plain = (head.logprobs(states, targets).double() - exact).abs().max()
            rounded = (head.logprobs(states, targets, precise=False).double() - exact).abs().max()
    assert plain < 1e-4
    assert precise < 1e-4 < rounded


def test_the_wide_copy_follows_the_weights() -> None:
    made = model(torch.bfloat16).requires_grad_(False)
    head = detect_forward_mode(made).head
    assert head is not None
    states, targets = torch.randn(4, 32).to(torch.bfloat16), torch.tensor([1, 2, 3, 4])
    before = head.logprobs(states, targets)
    made.lm_head.weight.mul_(2)
    assert (head.logprobs(states, targets) - before).abs().max() > 0.1


@pytest.mark.parametrize("tied", [False, True])
def test_training_moves_tied_heads_and_embeddings_together(tied: bool) -> None:
    made = model(torch.float64, tied)
    compute_pack_logprobs(made, build_pack(rows())).sum().backward()
    embedding = made.get_input_embeddings().weight
    assert (made.lm_head.weight is embedding) is tied
    assert embedding.grad is not None
    assert made.lm_head.weight.grad is not None


def test_reading_is_found_out_once() -> None:
    made = model(torch.float32)
    assert detect_forward_mode(made) is detect_forward_mode(made)
    assert detect_forward_mode(made).packed
