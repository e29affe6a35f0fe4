"""QLoRA: LoRA over a frozen base that is quantized to 4 or 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription, estimate_training_memory, get_bytes_per_weight
from luthier.models.load import open_quantized
from luthier.models.shapes import ADAPTED_EXPERTS, list_linear_layers
from luthier.models.source import QuantizationScheme
from luthier.tune.low_rank import HEAD_ROWS, LowRankTechnique
from luthier.tune.technique import write_adapter

if TYPE_CHECKING:
    import torch


class Qlora(LowRankTechnique):
    """LoRA over weights in 4 or 8 bits: a larger model in the same memory, on any processor, a little slower.

    The base is packed while it is read, and a layer's weight exists only while it multiplies; with the extra
    `bitsandbytes`, 4 bits come back by its kernels in the same bits, sooner. What is saved is a plain
    LoRA adapter: it loads over the whole base too, whose answers are close to, not the same as, the packed one's.
    """

    kind: Literal["qlora"] = "qlora"
    merging: ClassVar[Merging] = "dequantized"

    bits: Literal[4, 8] = 4
    """Bits of a frozen weight: 4 (NF4, which matches 16 bits after tuning in Dettmers et al., 2023) or 8 (closer to the
    base, twice the memory). Embeddings, norms and the output head are not quantized."""
    group: int = Field(default=64, ge=2, le=4096, multiple_of=2)
    """Number of weights that share a scale: 64 in the paper. More save a little memory (4.5 bits a weight with 64, 4.25
    with 128) and round more coarsely."""

    def open(self, artifact: Artifact, dtype: torch.dtype) -> Any:
        """Return the model with its linear layers quantized while they are read."""
        return open_quantized(artifact, dtype, QuantizationScheme(self.bits, self.group))

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with fresh fp32 adapters over the quantized layers: A random from the seed, B zero."""
        from luthier.models.quantization import LAYERS_FOR_PEFT, QuantizedLinear, quantize

        names = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
        if not names:
            quantize(model, QuantizationScheme(self.bits, self.group))
            names = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
        known = {name.rpartition(".")[2] for name in names}
        self.check_targets(known)
        targets = sorted(known) if isinstance(self.target_modules, str) else list(self.target_modules)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return self.wrap(model, seed, LAYERS_FOR_PEFT, target_modules=targets, fan_in_fan_out=False)

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse the fused experts of mixtures, which cannot be quantized."""
        if model.model_type in ADAPTED_EXPERTS:
            return f"most of a {model.model_type} lies in fused experts, which cannot be quantized here; take lora"
        return ""

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return quantized weights, the rest as on disk, one dequantized weight, fp32 adapters with AdamW, and
        autograd's saved tensors of one pack.
        """
        layers, width = list_linear_layers(model), get_bytes_per_weight(model)
        numbers = sum(layer.inputs * layer.outputs for layer in layers)
        packed = int(numbers * QuantizationScheme(self.bits, self.group).bytes_a_number)
        largest = max((layer.outputs * (layer.inputs + self.r) for layer in layers), default=0)
        whole = estimate_training_memory(model, "lora", self.trainable(model), tokens, head_rows=HEAD_ROWS).total
        return whole - width * numbers + packed + width * largest

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format: plain LoRA, over whole or quantized weights."""
        write_adapter(model, folder, name)
