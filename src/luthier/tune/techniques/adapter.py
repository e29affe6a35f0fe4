"""Bottleneck adapters: small two-layer networks after (or parallel to) attention and MLP of every layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import get_peft_task_type
from luthier.models.shapes import find_part
from luthier.tune.technique import LearningRate, Technique, scale_rate_to_width, write_adapter

BEST_RATE = 3e-4
"""LLM-Adapters' for series and parallel adapters (Hu et al., 2023); found at a width of 4,096, so careful here."""
HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""
_ATTENTION = re.compile(r"((?:self_attn|self_attention|attention|attn)\.(?:o_proj|out_proj|dense|c_proj|wo))\.weight$")
"""The output projection of attention, in a decoder layer."""
_MLP = re.compile(r"^(mlp|feed_forward|ffn|block_sparse_moe)\.|^(fc2)\.")
"""The MLP of a decoder layer; OPT's has no module of its own, and ends with fc2."""
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


class BottleneckAdapter(Technique):
    """Small networks inside the frozen model, with a bend: they can learn what no change of weights of their size can.

    They cost time when the model is used, and cannot be merged: export them as an adapter. PEFT has no such kind, so
    `import luthier.models.adapters` must come before `PeftModel.from_pretrained`.
    """

    kind: Literal["adapter"] = "adapter"
    merging: ClassVar[Merging] = "never"
    adapter_type: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """`pfeiffer`: after each MLP, nearly as good as twice as many (Pfeiffer et al., 2021). `houlsby`: after attention
    and after the MLP (Houlsby et al., 2019). `parallel`: beside the MLP, from its input (He et al., 2022)."""
    reduction_factor: float = Field(default=16.0, gt=0)
    """Ratio of the model's width to the bottleneck's; 16 is Pfeiffer's."""
    size: int | None = Field(default=None, ge=1)
    """The bottleneck's width as a number, in place of `reduction_factor`; 256 in LLM-Adapters (Hu et al., 2023)."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """The activation function of the bottleneck."""
    scale: float = Field(default=1.0, gt=0)
    """Factor on the adapter's output; He et al. use 4 for parallel ones."""

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with fresh fp32 adapters: the down-projection random from the seed, the up-projection
        zero.
        """
        import torch
        from peft import get_peft_model

        from luthier.models.adapters import BottleneckConfig

        width = int(model.config.get_text_config().hidden_size)
        target_modules = {module for _, module in self._find_modules(name for name, _ in model.named_parameters())}
        if not target_modules:
            raise ModelError(
                _NONE, where=SourceLocation(field="technique.adapter_type"), hint="take another technique, such as lora"
            )
        others = [name for name, _ in model.named_modules() if find_part(name) != "language"]
        config = BottleneckConfig(
            target_modules=sorted(target_modules),
            exclude_modules=[
                name for name in others if name.endswith(tuple(f".{layer_type}" for layer_type in target_modules))
            ],
            size=self._size(width),
            bend=self.non_linearity,
            parallel=self.adapter_type == "parallel",
            scale=self.scale,
            width=width,
            task_type=get_peft_task_type(model),
        )
        with torch.random.fork_rng(devices=[]), silence_peft_warnings():
            torch.manual_seed(seed)
            return get_peft_model(model, config)

    def _size(self, width: int) -> int:
        return self.size or max(1, round(width / self.reduction_factor))

    def _find_modules(self, names: Iterable[str]) -> set[tuple[int, str]]:
        """Return each decoder layer with the modules in it that get an adapter, from parameter names."""
        modules: set[tuple[int, str]] = set()
        for name in names:
            if find_part(name) == "language" and (layer := _LAYER.search(name)):
                inside = name[layer.end() :]
                if (mlp := _MLP.search(inside)) and not (mlp[2] and self.adapter_type == "parallel"):
                    modules.add((int(layer[1]), mlp[1] or mlp[2]))
                if self.adapter_type == "houlsby" and (out := _ATTENTION.search(inside)):
                    modules.add((int(layer[1]), out[1]))
        return modules

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse a model whose layers have unknown names."""
        return "" if not model.tensors or self._find_modules(model.tensors) else _NONE

    def _count_adapters(self, model: ModelDescription) -> int:
        """Return the number of adapters; as in a usual model when it does not exist yet."""
        return (
            len(self._find_modules(model.tensors))
            if model.tensors
            else model.layers * (1 + (self.adapter_type == "houlsby"))
        )

    def trainable(self, model: ModelDescription) -> int:
        """Return both matrices and both biases of every adapter."""
        width, size = model.hidden_size, self._size(model.hidden_size)
        return self._count_adapters(model) * (2 * width * size + width + size)

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, the adapters with AdamW, and autograd's saved tensors of one pack: of each adapter its
        input and the bottleneck before and after the activation, in fp32.
        """
        plain = estimate_training_memory(model, "adapter", self.trainable(model), tokens, head_rows=HEAD_ROWS).total
        return plain + tokens * self._count_adapters(model) * 4 * (
            model.hidden_size + 2 * self._size(model.hidden_size)
        )

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the learning rate, by the width of the model."""
        value = scale_rate_to_width(BEST_RATE, hidden_size)
        return LearningRate(
            value, f"bottleneck adapters in a model {hidden_size} wide; LLM-Adapters', falling with width"
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate, and the width of the bottleneck."""
        return {
            "learning_rate": ParamDistribution(1e-4, 3e-3, log=True),
            "reduction_factor": ParamDistribution(values=(4.0, 8.0, 16.0, 32.0)),
        }

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format."""
        write_adapter(model, folder, name)


_NONE = "no layer has an MLP (or attention) by a name that is known"
