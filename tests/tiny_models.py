"""Small honest things to test with: a two-layer model with its tokenizer, tickets in a CSV, and a recipe over both."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SUBJECTS = {
    "billing": ["invoice", "charge", "refund", "payment", "price"],
    "delivery": ["parcel", "courier", "address", "shipment", "tracking"],
    "account": ["password", "login", "profile", "email", "settings"],
}
_SENTENCES = [
    "My {} is wrong",
    "Where is the {}",
    "I need help with the {}",
    "The {} does not work",
    "Please fix my {}",
]
_MOODS = [
    "",
    " today",
    " please",
    " again",
    " since Monday",
    " and I am waiting",
    " as I said",
    " for order {n}",
    " now",
    "!",
]


def own_cache(folder: Path) -> str:
    """A cache in a folder, for LUTHIER_CACHE, that has what was compiled for this machine once for all tests."""
    from luthier.core.files import cache_folder

    shared, cache = cache_folder() / "kernels", folder / "cache"
    shared.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "kernels").exists():
        (cache / "kernels").symlink_to(shared.resolve(), target_is_directory=True)
    return str(cache)


def tickets(count: int = 90, seed: int = 0) -> list[dict[str, str]]:
    """Different short tickets, each with a class that its words decide."""
    chance = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = chance.choice(sorted(_SUBJECTS))
        text = chance.choice(_SENTENCES).format(chance.choice(_SUBJECTS[label]))
        found[text + chance.choice(_MOODS).format(n=chance.randrange(10, 99))] = label
    return [
        {"message": text, "category": label, "customer": f"C-{n // 3}"} for n, (text, label) in enumerate(found.items())
    ]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as a CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def tiny_tokenizer(folder: Path, more: Sequence[str] = ()) -> None:
    """A byte-level BPE tokenizer with ChatML tokens and template, saved into `folder`; with `more` special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator([row["message"] for row in tickets(200)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A random two-layer Llama with tied embeddings and its tokenizer, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path, *, pooling: str | None = "mean_tokens", dense: int = 0, seed: int = 0) -> Path:
    """A random two-layer BERT with its tokenizer as sentence-transformers writes one; plain when `pooling` is None."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    if pooling is None:
        return folder
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Dense", "2_Dense")] if dense else [])]
    modules.append(("Normalize", "3_Normalize"))
    told = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(told))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": false}')
    for _, path in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    flags = {"word_embedding_dimension": 32, **{f"pooling_mode_{one}": True for one in pooling.split("+")}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    if dense:
        layer = torch.nn.Linear(32 * (pooling.count("+") + 1), dense)
        settings = {"in_features": layer.in_features, "out_features": dense, "bias": True}
        settings["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
        tensors = {f"linear.{name}": value.data for name, value in layer.named_parameters()}
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    return folder


RECIPE = """\
luthier: 1
name: tickets
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, exact_dedup]
    split: {test: 30}
  tune:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    batch_size: 8
    learning_rate: 1.0e-2
    dtype: float32
  report:
    kind: evaluate
    data: data
    model: tune
    metrics: [accuracy, macro_f1]
  gate:
    kind: gate
    evaluation: report
    rules: ["accuracy >= 0.0"]
"""


def small_recipe(folder: Path, text: str = RECIPE, rows: int = 90) -> Path:
    """A folder with a tiny model, tickets and a recipe over them; returns the recipe's path."""
    tiny_model(folder / "tiny-model")
    write_csv(folder / "tickets.csv", tickets(rows))
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path
