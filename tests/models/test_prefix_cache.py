"""What all rows begin with is read once, in however many packs they stand, and nothing else comes of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from luthier.models.generate import compute_loglikelihoods, score_options
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.models.packing.prefix_cache import LEAST, PrefixCache, RecurringPrefixCache, share_prefixes
from models.test_generate import gemma, llama, mamba, opened

Asked = list[tuple[list[int], list[int]]]


def asked(beginning: int, count: int = 12) -> Asked:
    """Questions after the same examples, each with a few answers."""
    draw = random.Random(beginning)
    shots = [draw.randrange(3, 40) for _ in range(beginning)]
    found = []
    for _ in range(count):
        question = [draw.randrange(3, 40) for _ in range(draw.randint(1, 6))]
        found += [([*shots, *question], [draw.randrange(3, 40) for _ in range(draw.randint(1, 4))]) for _ in range(2)]
    return found


def computed(model: Any, every: Asked, tokens: int, **more: Any) -> tuple[list[float], int]:
    """Log-likelihoods, and how many tokens the model computed for them."""
    detect_forward_mode(model)
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, told: seen.append(told[0].numel()))
    found = [one.logprob for one in compute_loglikelihoods(model, every, tokens=tokens, **more)]
    hook.remove()
    return found, sum(seen)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("make", [llama, gemma])
def test_the_beginning_is_read_with_the_first_pack_alone(make: Any, greedy: bool) -> None:
    model, every = opened(make).model, asked(60)
    wanted, once = computed(model, every, 4096, greedy=greedy)
    found, several = computed(model, every, 90, greedy=greedy)
    assert found == pytest.approx(wanted, abs=1e-5)
    with torch.no_grad():
        rows = [TokenRow([*before, *after], [0.0] * len(before) + [1.0] * len(after)) for before, after in every]
        alone = [float(compute_pack_logprobs(model, build_pack([row])).sum()) for row in rows]
    assert found == pytest.approx(alone, abs=1e-5)
    assert several < once + 60, "six packs or so, rounded up to a few sizes, and not six beginnings"


@pytest.mark.parametrize("make", [llama, mamba])
def test_answers_right_after_the_beginning_are_read_too(make: Any) -> None:
    """The last token of what is shared predicts, so it is not left out."""
    model = opened(make).model
    shots = next(before for before, _ in asked(50))[:50]
    every = [(shots, [token, 7]) for token in range(3, 35)]
    wanted = [compute_loglikelihoods(model, [one])[0].logprob for one in every]
    found, _ = computed(model, every, 70)
    assert found == pytest.approx(wanted, abs=2e-4)


def test_options_of_prompts_too() -> None:
    model, every = opened(llama).model, asked(60)
    prompts, options = [before for before, _ in every], [[after, after[:1]] for _, after in every]
    wanted = score_options(model, prompts, options)
    assert score_options(model, prompts, options, tokens=80) == [pytest.approx(row, abs=1e-5) for row in wanted]


def test_other_packs_and_learning_are_left_alone() -> None:
    model = opened(llama).model
    every = asked(LEAST + 8)
    rows = [TokenRow([*before, *after], [0.0] * len(before) + [1.0] * len(after)) for before, after in every]
    strange = build_pack([TokenRow([5, 9, 11, 4], [0.0, 1.0, 1.0, 1.0])])
    with torch.no_grad():  # where a gradient is wanted, the last bits may be others
        wanted = compute_pack_logprobs(model, strange)
    with share_prefixes(model, rows):
        with torch.no_grad():
            for row in rows[:3]:
                compute_pack_logprobs(model, build_pack([row]))
            assert torch.equal(compute_pack_logprobs(model, strange), wanted)
        learnt = compute_pack_logprobs(model, build_pack(rows[:4]))
    assert learnt.requires_grad
    learnt.sum().backward()
    after = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    compute_pack_logprobs(model, build_pack(rows[:4])).sum().backward()
    plain = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(after, plain, strict=True))


def test_a_kept_beginning_is_found_by_the_next_call_and_gives_the_same_to_the_bit() -> None:
    model, every = opened(llama).model, asked(70, 16)
    first, second = every[:16], every[16:]
    fresh, whole = computed(model, second, 4096, kept=PrefixCache())
    kept = PrefixCache()
    computed(model, first, 4096, kept=kept)
    found, less = computed(model, second, 4096, kept=kept)
    assert found == fresh, "whoever was asked before"
    assert whole - less == 64, "a multiple of 16 tokens"
    assert found == pytest.approx([compute_loglikelihoods(model, [one])[0].logprob for one in second], abs=1e-5)


def test_only_a_few_beginnings_are_kept() -> None:
    model, kept = opened(llama).model, PrefixCache()
    begun = [kept.of(model, [3 + at, *range(5, 40)]) for at in range(6)]
    assert kept.of(model, [8, *range(5, 40)]) is begun[5]
    assert kept.of(model, [3, *range(5, 40)]) is not begun[0]


def test_what_comes_one_by_one_stands_on_what_came_before() -> None:
    """Each row alone, as a server reads them: from the second on, what they share is kept, whatever follows it."""
    model, every = opened(llama).model, asked(70, 8)
    kept = RecurringPrefixCache()
    counts = []
    for one in every[:6]:
        wanted = compute_loglikelihoods(model, [one])[0].logprob
        found, tokens = computed(model, [one], 4096, kept=kept)
        assert found == pytest.approx([wanted], abs=1e-5)
        counts.append(tokens)
    assert counts[0] >= 70, "nothing is known yet"
    assert all(count <= 40 for count in counts[2:]), "64 tokens of 70 are not read again"
    assert len(kept._kept) == 1


def test_strangers_leave_what_is_kept() -> None:
    kept = RecurringPrefixCache()
    shared = list(range(5, 85))
    assert not kept.worth([*shared, 1, 2])
    assert list(kept.worth([*shared, 3])) == shared
    assert not kept.worth([9, *shared])
    assert list(kept.worth([*shared, 4])) == shared
    assert len(kept.worth([*shared, 4, 4])) == 80, "a multiple of sixteen"
