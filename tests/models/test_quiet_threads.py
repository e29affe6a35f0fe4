"""Models that are opened by several threads come out whole: transformers opens one at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from luthier.models.load import open_folder
from models.architectures import tiny


def test_threads_open_models_one_after_another(tmp_path: Path) -> None:
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_folder(tmp_path, torch.float32), range(12)))
    wanted = {name: value.float() for name, value in model.state_dict().items()}
    for one in found:
        assert all(torch.equal(value, wanted[name]) for name, value in one.state_dict().items())
    assert torch.get_default_dtype() == torch.float32
