"""Every technique's model goes out in every format with equal answers, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.errors import InputError, ModelError
from luthier.models.export.checkpoint import Format, export_model_folder
from luthier.models.gguf.reader import open_gguf
from luthier.models.load import load_model, open_folder
from luthier.models.quiet import silence_peft_warnings
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase
from tuning import TuneEnv, make_env

TECHNIQUES = {kind: found for kind, found in components_by_kind(TechniqueBase).items() if issubclass(found, Technique)}
KINDS = sorted(TECHNIQUES)
WHOLE = {"full", "layers"}
PROMPTS = {"prompt": "learns a prompt", "p_tuning": "learns a prompt", "prefix": "learns a prompt"}
"""Techniques whose result no weights can hold, and what is said of them."""
UNMERGED = PROMPTS | {"adapter": "cannot be merged", "qlora": "learnt over quantized weights"}
RATES = {"prompt": 0.3, "prefix": 0.1, "p_tuning": 0.03}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def tuned(env: TuneEnv) -> dict[str, Artifact]:
    """A model of each technique."""
    return {
        kind: env.tune(
            Tune(
                data="data",
                technique=TECHNIQUES[kind](kind=kind),
                batch_size=16,
                learning_rate=RATES.get(kind, 5e-3),
                dtype="float32",
            )
        )
        for kind in KINDS
    }


def logits(model: Any) -> torch.Tensor:
    with silence_peft_warnings(), torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[:, -5:]
    return found


def refused(artifact: Artifact, to: Path, format: Format, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        export_model_folder(artifact, to, format)
    assert not to.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_as_an_adapter(kind: str, tuned: dict[str, Artifact], tmp_path: Path) -> None:
    if kind in WHOLE:
        refused(tuned[kind], tmp_path / "out", "adapter", "whole model")
        return
    heard: list[str] = []
    to = export_model_folder(tuned[kind], tmp_path / "out", "adapter", say=heard.append)
    assert "16 of 16 greedy tokens" in heard[0]
    card = (to / "README.md").read_text()
    assert ("teaches PEFT this type" in card) is (kind == "adapter")
    assert ("over the whole one" in card) is (len(heard) == 2) is (kind == "qlora")


@pytest.mark.parametrize("format", ["hf", "merged", "gguf"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_whole_weights(kind: str, format: Format, tuned: dict[str, Artifact], tmp_path: Path) -> None:
    if kind in UNMERGED:
        refused(tuned[kind], tmp_path / "out", format, UNMERGED[kind])
        return
    to = export_model_folder(tuned[kind], tmp_path / "out", format)
    came = open_gguf(next(to.glob("*.gguf"))) if format == "gguf" else open_folder(to, torch.float32)
    assert came.lm_head.weight is came.model.embed_tokens.weight
    wanted = logits(load_model(tuned[kind], "float32").model)
    torch.testing.assert_close(logits(came), wanted, atol=0.05 if format == "gguf" else 1e-4, rtol=1e-3)
    base = open_folder(tuned[kind].parent("model").folder, torch.float32)
    assert (logits(came) - logits(base)).abs().max() > 0.06


@pytest.mark.parametrize("format", ["merged", "gguf"])
def test_what_was_learnt_over_a_quantized_base_goes_out_dequantized(
    format: Format, tuned: dict[str, Artifact], tmp_path: Path
) -> None:
    to = export_model_folder(tuned["qlora"], tmp_path / "out", format, dequantize=True)
    came = open_gguf(next(to.glob("*.gguf"))) if format == "gguf" else open_folder(to, torch.float32)
    wanted = logits(load_model(tuned["qlora"], "float32").model)
    torch.testing.assert_close(logits(came), wanted, atol=0.05 if format == "gguf" else 1e-4, rtol=1e-3)


def test_dequantize_is_refused_where_it_means_nothing(tuned: dict[str, Artifact], tmp_path: Path) -> None:
    for kind, format in (("lora", "merged"), ("qlora", "adapter"), ("full", "hf")):
        with pytest.raises(InputError, match="nothing is merged into a quantized base"):
            export_model_folder(tuned[kind], tmp_path / "out", format, dequantize=True)  # type: ignore[arg-type]  # one of the forms
