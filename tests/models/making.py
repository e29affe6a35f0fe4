"""Model artifacts for tests: a tiny base, adapters over it, a full fine-tune, as the rooms above would make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, Manifest
from luthier.core.digest import digest_of
from luthier.core.events import Event, Events
from luthier.core.step import Work
from luthier.core.store import Store
from luthier.models.source import ModelSource
from luthier.models.sources.folder import Folder
from luthier.models.steps.base import Base
from luthier.models.steps.merge import Merge
from workshop import tiny_model, tiny_tokenizer


def make_base(store: Store, source: ModelSource, base: Path, heard: list[Event] | None = None) -> Artifact:
    """Run the base step as a recipe's run would."""
    step = Base(source=source)
    contents = step.contents(base)
    digest = step.recipe_digest({}, contents, seed=7)
    folder, scratch = store.begin(digest)
    events = Events((heard if heard is not None else []).append).of("model")
    work = Work(name="model", inputs={}, folder=folder, scratch=scratch, base=base, seed=7, events=events)
    measures = step.make(work)
    return _finish(store, digest, "base", step.settings(), {}, dict(measures))


def tiny_base(tmp_path: Path, **changes: Any) -> tuple[Store, Artifact]:
    """A store with the tiny Llama as a base artifact."""
    place = tiny_model(tmp_path / "tiny") if not changes else other_model(tmp_path / "tiny", **changes)
    store = Store(tmp_path / "store")
    return store, make_base(store, Folder(path=str(place)), tmp_path)


def other_model(folder: Path, kind: str = "qwen2", *, tied: bool = True, dtype: str = "float32", **more: Any) -> Path:
    """A random two-layer model of another architecture, with the tiny tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    torch.manual_seed(1)
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = AutoConfig.for_model(
        kind, **sizes | more, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms as a trained model has them, not zeros and ones
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def tiny_adapter(store: Store, base: Artifact, config: Any = None, *, seed: int = 0, size: float = 0.3) -> Artifact:
    """An adapter artifact with random weights, written by plain PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    from luthier.models.load import load, open_merged
    from luthier.models.quiet import no_peft_warning

    torch.manual_seed(seed)
    parent = load(base, "float32").model if "model" not in base.manifest.inputs else open_merged(base, torch.float32)
    config = config or LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    with no_peft_warning():
        model = get_peft_model(parent, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = (
                size * torch.randn_like(parameter).abs() if "prompt" in name else size * torch.randn_like(parameter)
            )
    digest = digest_of(["adapter", base.digest, seed, str(config.peft_type)])
    folder, _ = store.begin(digest)
    model.save_pretrained(folder / "adapter")
    settings = {"kind": "tune", "technique": {"kind": "lora", "r": 4}, "learning_rate": 0.01}
    (folder / "tuned.json").write_text(json.dumps({"technique": "lora"}))
    return _finish(store, digest, "tune", settings, {"data": "d" * 32, "model": base.digest}, {})


def full_tune(store: Store, base: Artifact) -> Artifact:
    """A full fine-tune's artifact: the base's folder with moved weights."""
    import shutil

    import torch

    from luthier.models.load import load

    digest = digest_of(["full", base.digest])
    folder, _ = store.begin(digest)
    for path in base.folder.iterdir():
        if path.name not in ("manifest.json", "timing.json", "model.json"):
            shutil.copyfile(path, folder / path.name)
    model = load(base, "float32").model
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.01
    model.save_pretrained(folder)
    (folder / "tuned.json").write_text(json.dumps({"technique": {"kind": "full"}}))
    return _finish(store, digest, "tune", {"kind": "tune"}, {"data": "d" * 32, "model": base.digest}, {})


def merged(
    store: Store,
    base: Artifact,
    models: list[Artifact],
    seed: int = 7,
    heard: list[Event] | None = None,
    **settings: Any,
) -> Artifact:
    """Run the merge step as a recipe's run would."""
    step = Merge(models=tuple(f"m{at}" for at in range(len(models))), **settings)
    inputs = {"model": base, **{f"models.{at}": one for at, one in enumerate(models)}}
    named = {field: one.digest for field, one in inputs.items()}
    digest = step.recipe_digest(named, {}, seed)
    folder, scratch = store.begin(digest)
    events = Events((heard if heard is not None else []).append).of("merge")
    work = Work(name="merge", inputs=inputs, folder=folder, scratch=scratch, base=folder, seed=seed, events=events)
    return _finish(store, digest, "merge", step.settings(), named, dict(step.make(work)))


def _finish(
    store: Store, digest: str, kind: str, settings: dict[str, Any], inputs: dict[str, str], timing: dict[str, Any]
) -> Artifact:
    manifest = Manifest(
        digest=digest, kind=kind, makes="model", settings=settings, inputs=inputs, reads={}, code="", seed=7, files=[]
    )
    return store.finish(manifest, timing)
