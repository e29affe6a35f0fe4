"""EVA begins with the principal directions of what layers read: those that PEFT's own EVA finds in the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict

from luthier.chat.messages import prompt_of
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import ModelError
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.packing.pack import Pack, TokenRow, build_pack
from luthier.models.quiet import silence_peft_warnings
from luthier.tune.eva import _directions, initialize_with_eva
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from policies import Script, policy_of
from tiny_models import tiny_model
from tuning import examples, make_env

PREFIX = "base_model.model."
ROWS = [[(7 * at * at + 3 * row) % 400 for at in range(30)] for row in range(6)]


def test_it_finds_what_peft_finds(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model")
    technique = Lora(r=2, init_lora_weights="eva")
    model = technique.adapt(open_folder(base, torch.float32), 1)
    packed = build_pack([TokenRow(ids, [0.0] * 29 + [1.0]) for ids in ROWS], share_from=1000)
    technique.begin(model, iter([packed]))
    ours = {name: one.weight.detach() for name, one in model.named_modules() if name.endswith("lora_A.default")}
    config = LoraConfig(
        r=2, target_modules="all-linear", init_lora_weights="eva", eva_config=EvaConfig(rho=1.0), task_type="CAUSAL_LM"
    )
    with silence_peft_warnings():
        theirs = get_peft_model(open_folder(base, torch.float32), config, low_cpu_mem_usage=True)
        rows = torch.tensor([ids[:29] for ids in ROWS])
        batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        found = get_eva_state_dict(theirs, [batch, batch], show_progress_bar=False)
    for name, rows in inputs(open_folder(base, torch.float32)).items():
        caught = [energy(rows, ours[f"{PREFIX}{name}.lora_A.default"]), energy(rows, found[f"{PREFIX}{name}"])]
        assert caught[0] == pytest.approx(torch.linalg.svdvals(rows)[:2].square().sum().item(), rel=1e-3), name
        assert caught[0] >= 0.999 * caught[1], name  # PEFT finds them batch by batch and at random, so a little worse


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_it_looks_at_the_prompts_of_a_policy(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[list[int]]] = []

    def watched(model: Any, packs: Iterator[Pack], rank: int) -> None:
        some = list(packs)
        read.extend(one.unpack() for one in some)
        initialize_with_eva(model, iter(some), rank)

    monkeypatch.setattr("luthier.tune.eva.initialize_with_eva", watched)
    policy = policy_of(kind, Script.drawn(samples=4))
    env = make_env(tmp_path, examples(8))
    env.tune(Tune(data="data", technique=Lora(r=2, init_lora_weights="eva"), objective=policy, batch_size=8))
    prompts = ChatTokenizer.load(env.base.folder).prompts([prompt_of(one) for one in examples(8)])
    assert [sorted(one) for one in read] == [sorted(prompts)]


def inputs(model: Any) -> dict[str, torch.Tensor]:
    """What each linear layer of the plain model reads of the rows, centred."""
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.model.named_modules(prefix="model"):
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].flatten(0, 1)}))
    with torch.no_grad():
        model(torch.tensor([ids[:29] for ids in ROWS]))
    return {name: rows - rows.mean(0) for name, rows in seen.items()}


def energy(rows: torch.Tensor, directions: torch.Tensor) -> float:
    """How much of the rows lies along the directions."""
    return float((rows @ directions.float().t()).square().sum())


def test_too_few_tokens_are_refused(tmp_path: Path) -> None:
    technique = Lora(r=16, init_lora_weights="eva")
    model = technique.adapt(open_folder(tiny_model(tmp_path / "model"), torch.float32), 1)
    with pytest.raises(ModelError, match="too few for rank 16"):
        technique.begin(model, iter([build_pack([TokenRow([1, 2, 3], [0.0, 0.0, 1.0])])]))


@pytest.mark.parametrize(("rows", "inputs", "inner"), [(60, 24, 24), (24, 60, 24), (24, 60, 3)])
def test_directions_are_those_of_the_whole_decomposition(rows: int, inputs: int, inner: int) -> None:
    """Of tall and wide inputs, and where the rows have fewer directions than are wanted."""
    draw = torch.Generator().manual_seed(1)
    left, right = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((rows, inner), (inner, inputs)))
    seen = left @ right
    found = _directions(seen, 6, "here")
    torch.testing.assert_close(found @ found.t(), torch.eye(6, dtype=torch.float64))
    centred = seen - seen.mean(0)
    wanted = torch.linalg.svdvals(centred)[:6].square().sum()
    torch.testing.assert_close((centred @ found.t()).square().sum(), wanted)


def test_a_plan_tells_what_looking_for_directions_takes(tmp_path: Path) -> None:
    """Beside it all is told as without it."""
    env = make_env(tmp_path, examples(16))

    def told(**settings: Any) -> float:
        step = Tune(data="data", technique=Lora(r=4, **settings))
        inputs = {"data": env.data, "model": env.base}
        history = {"measures": {"flops_per_s": 1e9, "begin_s": 2.0}}
        return (
            step.estimate_cost(
                PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=history)
            ).seconds
            or 0.0
        )

    model = describe_model_folder(env.base.folder)
    assert told(init_lora_weights="eva") == pytest.approx(
        told() + Lora(r=4, init_lora_weights="eva").before_s(model), abs=0.2
    )
    assert Lora(r=4, init_lora_weights="eva").before_s(model) > 0 == Lora(r=4).before_s(model)
