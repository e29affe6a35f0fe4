"""What was learnt over a quantized base: given out as an adapter, merged only on request, in truly less memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.models.describe import describe_model_folder
from luthier.models.export.checkpoint import export_model_folder
from luthier.models.load import get_quantization_scheme, open_merged
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.qlora import Qlora
from tuning import make_env

ONE_STEP = """
import re, sys
import torch
from pathlib import Path
from luthier.core.artifact import Artifact
from luthier.models.load import open_folder
from luthier.models.source import QuantizationScheme
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.kernels.lora import install_fused_lora
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.techniques.lora import Lora
from luthier.tune.techniques.qlora import Qlora
import luthier.models.quantization

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

begun = anonymous()
folder, bits = Path(sys.argv[1]), int(sys.argv[2])
technique = Qlora(bits=bits) if bits else Lora()
scheme = QuantizationScheme(bits, 64) if bits else None
model = technique.adapt(open_folder(folder, torch.bfloat16, scheme), 1)
install_fused_lora(model)
row = TokenRow([(31 * at) % 40000 for at in range(64)], [0.0] * 60 + [1.0] * 4)
(-compute_pack_logprobs(model, build_pack([row])).sum()).backward()
print(anonymous() - begun)
"""


def test_it_is_given_out_as_an_adapter_and_merged_only_on_request(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    made = env.tune(Tune(data="data", technique=Qlora(bits=8), batch_size=16, dtype="float32"))
    assert get_quantization_scheme(made) == (8, 64)
    told = json.loads((export_model_folder(made, tmp_path / "given", "adapter") / "adapter_config.json").read_text())
    assert told["peft_type"] == "LORA"
    with pytest.raises(ModelError, match="over quantized weights"):
        export_model_folder(made, tmp_path / "merged", "merged")
    with pytest.raises(ModelError, match="over quantized weights"):
        open_merged(made, torch.float32)
    assert open_merged(made, torch.float32, dequantize=True).get_output_embeddings() is not None


def test_fewer_bits_are_foreseen_to_take_less(tmp_path: Path) -> None:
    told = describe_model_folder(make_env(tmp_path).base.folder)
    four, eight, whole = (one.footprint(told, 100) for one in (Qlora(bits=4), Qlora(bits=8), Lora()))
    assert four < eight < whole


@pytest.mark.slow
@pytest.mark.model
def test_a_training_takes_truly_less_memory(smollm2: Artifact) -> None:
    taken = {}
    for bits in (0, 8, 4):
        command = [sys.executable, "-c", ONE_STEP, str(smollm2.folder), str(bits)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
        taken[bits] = int(found.stdout.split()[-1])
    linear = (
        describe_model_folder(smollm2.folder).parameters - describe_model_folder(smollm2.folder).embedding_parameters
    )
    assert taken[0] - taken[8] > 0.7 * linear * (2 - 1.0625)
    assert taken[0] - taken[4] > 0.7 * linear * (2 - 0.5625)
