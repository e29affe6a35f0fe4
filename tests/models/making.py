"""Model artifacts for tests: a tiny base, adapters over it, a full fine-tune, as the rooms above would make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact, Manifest
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.core.store import Store
from luthier.models.source import ModelSource
from luthier.models.sources.folder import FolderModelSource
from luthier.models.steps.base import BaseModelStep
from luthier.models.steps.merge import Merge
from tiny_models import tiny_model, tiny_tokenizer


def make_base(store: Store, source: ModelSource, base: Path, heard: list[RunEvent] | None = None) -> Artifact:
    """Run the base step as a recipe's run would."""
    step = BaseModelStep(source=source)
    contents = step.contents(base)
    digest = step.recipe_digest({}, contents, seed=7)
    folder, scratch = store.begin(digest)
    events = RunEventEmitter((heard if heard is not None else []).append).of("model")
    work = StepContext(name="model", inputs={}, folder=folder, scratch=scratch, recipe_dir=base, seed=7, events=events)
    measures = step.make(work)
    return _finish(store, digest, "base", step.settings(), {}, dict(measures))


def tiny_base(tmp_path: Path, **changes: Any) -> tuple[Store, Artifact]:
    """A store with the tiny Llama as a base artifact."""
    place = tiny_model(tmp_path / "tiny") if not changes else other_model(tmp_path / "tiny", **changes)
    store = Store(tmp_path / "store")
    return store, make_base(store, FolderModelSource(path=str(place)), tmp_path)


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


ROPE = {"rope_theta": 10000.0}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
HEADS = {"head_dim": 16}
GEMMA = {**HEADS, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GGUF_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-untied": ("llama", {"tied": False}),
    "llama-wide-heads": ("llama", HEADS),
    "llama-linear": ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "llama3": (
        "llama",
        {"rope_parameters": {**ROPE, **LLAMA3, "rope_type": "llama3", "factor": 32.0}}
        | {**HEADS, "max_position_embeddings": 16384},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", HEADS),
    "phi3": ("phi3", {}),
    "phi3-partial": ("phi3", {"rope_parameters": {**ROPE, "rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi3-long": (
        "phi3",
        {
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                **ROPE,
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.5, 2.0],
                "long_factor": [1.0, 2.0, 8.0, 30.0],
                "original_max_position_embeddings": 256,
            },
        },
    ),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma3": ("gemma3_text", GEMMA),
    "gemma3-linear": (
        "gemma3_text",
        {
            **GEMMA,
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {**ROPE, "rope_type": "default"},
            },
        },
    ),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 64}),
    "qwen2-moe": ("qwen2_moe", {**EXPERTS, "tied": False, "shared_expert_intermediate_size": 64}),
    "qwen3-moe": ("qwen3_moe", {**EXPERTS, **HEADS, "norm_topk_prob": True}),
}
"""Tiny models of every architecture that is written as GGUF, and with what else a file can say of one."""


def strong_model(folder: Path, name: str) -> Path:
    """A tiny model of such a family whose attention is sharp, so that a fault in it shows in the logits."""
    import torch
    from transformers import AutoModelForCausalLM

    kind, more = GGUF_FAMILIES[name]
    other_model(folder, kind, **more)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for title, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(5 if "embed" in title or "wte" in title else 8)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def cut_as(folder: Path, cut: str) -> None:
    """Give a folder's byte-level tokenizer the way of cutting text that llama.cpp calls so."""
    from luthier.models.gguf.vocabulary import SPLITS

    told = json.loads((folder / "tokenizer.json").read_text())
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if cut == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, whole]
        told["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    elif cut != "gpt-2":
        pattern, told["model"]["ignore_merges"] = next(key for key, name in SPLITS.items() if name == cut)
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        told["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, whole | {"use_regex": False}]}
    (folder / "tokenizer.json").write_text(json.dumps(told))


def sentence_pieces(folder: Path, *, prefix: bool, stripped: bool = False) -> Path:
    """Put a tokenizer as SentencePiece's in a model's folder: 400 tokens, spaces written out, bytes for the rest."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

    space = "\N{LOWER ONE EIGHTH BLOCK}"
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>", "<|endoftext|>"]
    runs = [] if stripped else ["\n\n", space * 2]  # as Gemma's
    whole = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *runs[:1]]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    words = "the cat sat on the mat and that other cat ate the rest of it  at   one o'clock, 12 times."
    learner.train_from_iterator([words] * 3, trainers.BpeTrainer(vocab_size=380 - len(whole), show_progress=False))
    learnt = learner.get_vocab()
    vocab = {token: at for at, token in enumerate([*whole, *sorted(learnt, key=learnt.__getitem__)])}
    merges = [(token[:at], token[at:]) for token in vocab if token not in whole for at in range(1, len(token))]
    merges = [pair for pair in merges if pair[0] in vocab and pair[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend(space)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", space)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()])
    plain = ("<unk>", "<s>", "<|endoftext|>")
    for token in special:
        strip = stripped and token not in plain
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, rstrip=strip)])
    assert space * 2 in vocab
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def tiny_adapter(store: Store, base: Artifact, config: Any = None, *, seed: int = 0, size: float = 0.3) -> Artifact:
    """An adapter artifact with random weights, written by plain PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    from luthier.models.load import load_model, open_merged
    from luthier.models.quiet import silence_peft_warnings

    torch.manual_seed(seed)
    parent = (
        load_model(base, "float32").model if "model" not in base.manifest.inputs else open_merged(base, torch.float32)
    )
    config = config or LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    with silence_peft_warnings():
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
    (folder / "training.json").write_text(json.dumps({"technique": "lora"}))
    return _finish(store, digest, "tune", settings, {"data": "d" * 32, "model": base.digest}, {})


def full_tune(store: Store, base: Artifact) -> Artifact:
    """A full fine-tune's artifact: the base's folder with moved weights."""
    import shutil

    import torch

    from luthier.models.load import load_model

    digest = digest_of(["full", base.digest])
    folder, _ = store.begin(digest)
    for path in base.folder.iterdir():
        if path.name not in ("manifest.json", "timing.json", "model.json"):
            shutil.copyfile(path, folder / path.name)
    model = load_model(base, "float32").model
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.01
    model.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps({"technique": {"kind": "full"}}))
    return _finish(store, digest, "tune", {"kind": "tune"}, {"data": "d" * 32, "model": base.digest}, {})


def merged(
    store: Store,
    base: Artifact,
    models: list[Artifact],
    seed: int = 7,
    heard: list[RunEvent] | None = None,
    **settings: Any,
) -> Artifact:
    """Run the merge step as a recipe's run would."""
    step = Merge(models=tuple(f"m{at}" for at in range(len(models))), **settings)
    inputs = {"model": base, **{f"models.{at}": one for at, one in enumerate(models)}}
    named = {field: one.digest for field, one in inputs.items()}
    digest = step.recipe_digest(named, {}, seed)
    folder, scratch = store.begin(digest)
    events = RunEventEmitter((heard if heard is not None else []).append).of("merge")
    work = StepContext(
        name="merge", inputs=inputs, folder=folder, scratch=scratch, recipe_dir=folder, seed=seed, events=events
    )
    return _finish(store, digest, "merge", step.settings(), named, dict(step.make(work)))


def _finish(
    store: Store, digest: str, kind: str, settings: dict[str, Any], inputs: dict[str, str], timing: dict[str, Any]
) -> Artifact:
    manifest = Manifest(
        digest=digest, kind=kind, makes="model", settings=settings, inputs=inputs, reads={}, code="", seed=7, files=[]
    )
    return store.finish(manifest, timing)
