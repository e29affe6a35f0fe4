"""Bergson, a peer of `benchmarks/influence_speed.py`, in a process of its own: CPU seconds for an index of some rows.

    python benchmarks/influence_peer.py MODEL_FOLDER ADAPTER_FOLDER FILE

FILE holds `{"rows": [[ids, labels], …]}`. The gradients of the adapter's matrices are collected for each row, projected
to 16 x 16 for each matrix (Bergson's own default of `trackstar`), and written to disk. Prints a line of JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    """Build the index once."""
    from bergson.collection import collect_gradients
    from bergson.config.config import IndexConfig
    from bergson.data import allocate_batches
    from bergson.utils.worker_utils import create_processor, setup_model_and_peft
    from datasets import Dataset

    torch.set_num_threads(1)
    base, adapter, file = sys.argv[1:]
    rows = json.loads(Path(file).read_text())["rows"]
    columns: dict[str, Any] = {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    data = Dataset.from_dict({**columns, "length": [len(ids) for ids, _ in rows]})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "adapter"
        shutil.copytree(adapter, place)
        config = json.loads((place / "adapter_config.json").read_text())
        (place / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        settings = IndexConfig(run_path=f"{folder}/run", model=str(place), projection_dim=16, precision="fp32")
        settings.partial_run_path.mkdir(parents=True)
        model, modules = setup_model_and_peft(settings)
        processor = create_processor(model, settings, modules)
        batches = allocate_batches(data["length"][:], settings.token_batch_size)
        started = time.process_time()
        collect_gradients(model, data, processor, settings, batches=batches, target_modules=modules)
        print(json.dumps({"cpu_s": time.process_time() - started, "modules": len(modules or ())}), flush=True)


if __name__ == "__main__":
    main()
