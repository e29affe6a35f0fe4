"""A peer of `benchmarks/explain.py` in a process of its own: LXT or Inseq, timed on one thread when it is told to.

    python benchmarks/explain_peer.py lxt|inseq MODEL_FOLDER FILE

FILE holds `{"prompt": ids, "answer": ids, "text": …, "continuation": …}`. For each line on standard input, one
explanation is read, and a line `{"cpu_s", "peak_bytes"}` is written. The peer and the transformers that it needs are
found by PYTHONPATH.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def open_lxt(folder: str, task: dict[str, Any]) -> Callable[[], object]:
    """LXT's efficient AttnLRP of the whole answer; its package door imports what newer transformers has no longer."""
    spec = importlib.util.find_spec("lxt")
    assert spec is not None
    place = Path(next(iter(spec.submodule_search_locations or ())))
    for name, path in {
        "lxt": place,
        "lxt.efficient": place / "efficient",
        "lxt.efficient.models": place / "efficient/models",
    }.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    modeling = importlib.import_module("transformers.models.llama.modeling_llama")
    for target, patch in importlib.import_module("lxt.efficient.models.llama").attnLRP.items():
        patch(target)

    class Eager(dict[str, Any]):
        def get_interface(self, name: str, default: Any) -> Any:
            return default

    modeling.ALL_ATTENTION_FUNCTIONS = Eager()  # type: ignore[attr-defined]
    model = modeling.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.requires_grad_(False).eval()
    ids, answer = task["prompt"], task["answer"]

    def explain() -> torch.Tensor:
        leaf = model.get_input_embeddings()(torch.tensor([[*ids, *answer]])).requires_grad_()
        logits = model(inputs_embeds=leaf, use_cache=False).logits[0, len(ids) - 1 : -1]
        value = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        return (gradient * leaf).sum(-1)

    return explain


def open_inseq(folder: str, task: dict[str, Any]) -> Callable[[], object]:
    """Inseq's gradient times input of each token of the answer."""
    inseq: Any = importlib.import_module("inseq")
    place = Path(tempfile.mkdtemp())  # with the name that older transformers has for the class of the tokenizer
    for path in Path(folder).iterdir():
        (place / path.name).symlink_to(path)
    config = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").unlink()
    (place / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    model = inseq.load_model(str(place), "input_x_gradient", device="cpu")
    return lambda: model.attribute(task["text"], task["text"] + task["continuation"], show_progress=False)


def main() -> None:
    """Explain once for each line."""
    torch.set_num_threads(1)
    kind, folder, file = sys.argv[1:]
    replies, sys.stdout = sys.stdout, sys.stderr
    explain = {"lxt": open_lxt, "inseq": open_inseq}[kind](folder, json.loads(Path(file).read_text()))
    for _ in sys.stdin:
        started = time.process_time()
        explain()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"cpu_s": time.process_time() - started, "peak_bytes": peak}), file=replies, flush=True)


if __name__ == "__main__":
    main()
