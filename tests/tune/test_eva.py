"""EVA begins with the principal directions of what layers read: those that PEFT's own EVA finds in the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict

from luthier.core.errors import ModelError
from luthier.models.load import open_folder
from luthier.models.pack import Row, pack
from luthier.models.quiet import no_peft_warning
from luthier.tune.techniques.lora import Lora
from workshop import tiny_model

ROWS = [[(7 * at * at + 3 * row) % 400 for at in range(30)] for row in range(6)]


def test_it_finds_what_peft_finds(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model")
    technique = Lora(r=4, start="eva")
    model = technique.adapt(open_folder(base, torch.float32), 1)
    packed = pack([Row(ids, [0.0] * 29 + [1.0]) for ids in ROWS], share_from=1000)
    technique.begin(model, iter([packed]))
    ours = {name: one.weight.detach() for name, one in model.named_modules() if name.endswith("lora_A.default")}
    config = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights="eva", eva_config=EvaConfig(rho=1.0), task_type="CAUSAL_LM"
    )
    with no_peft_warning():
        theirs = get_peft_model(open_folder(base, torch.float32), config, low_cpu_mem_usage=True)
        rows = torch.tensor([ids[:29] for ids in ROWS])
        batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        found = get_eva_state_dict(theirs, [batch, batch], show_progress_bar=False)
    assert ours.keys() == {f"{name}.lora_A.default" for name in found}
    for name, directions in found.items():
        same = torch.linalg.svdvals(ours[f"{name}.lora_A.default"] @ directions.float().t())
        assert same.min() > 0.99, name  # the same space, whatever the signs


def test_too_few_tokens_are_refused(tmp_path: Path) -> None:
    technique = Lora(r=16, start="eva")
    model = technique.adapt(open_folder(tiny_model(tmp_path / "model"), torch.float32), 1)
    with pytest.raises(ModelError, match="too few for rank 16"):
        technique.begin(model, iter([pack([Row([1, 2, 3], [0.0, 0.0, 1.0])])]))
