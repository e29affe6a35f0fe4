"""Losses of rows with pictures are those of TRL's trainers for models of pictures, with their own collators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.chat.media import load_processor
from luthier.chat.media_codec import decode_image
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.load import open_folder
from luthier.models.media.towers import attach_media, gather_leaves, learn_media, list_row_media
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.objective import NOTHING, REFERENCE, Objective
from luthier.tune.objectives.dpo import DpoObjective
from luthier.tune.objectives.sft import Sft
from luthier.tune.training.reference_logprobs import compute_row_logprobs
from test_every_training_on_media import PICTURES, rows
from vision_models import tiny_vision_model

pytest.importorskip("trl", reason="TRL is not installed: no comparison with its losses")
FAMILIES = ("llava", "qwen2_5_vl")
CONTENTS = {media.digest: content for media, content in PICTURES}


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and the one that it was: the reference."""
    root = tmp_path_factory.mktemp("models")
    return tiny_vision_model(root / "now", request.param), tiny_vision_model(root / "was", request.param, seed=5)


def turn(message: Message) -> dict[str, Any]:
    """A message as TRL reads it: pictures stand apart, in the column `images`."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in message.media]
    text = message.content[len(message.media) :]
    return {"role": message.role, "content": [*parts, {"type": "text", "text": text}]}


def trl_rows(kind: str) -> list[dict[str, Any]]:
    """The rows with pictures as TRL's collators take them."""
    found = []
    for row in rows(kind):
        images = [decode_image(CONTENTS[media.digest]) for media in row.messages[0].media]
        if not images:
            continue
        prompt, answer = [turn(row.messages[0])], [turn(row.messages[-1])]
        if kind == "sft":
            found.append({"images": images, "prompt": prompt, "completion": answer})
        else:
            other = [turn(Message(role="assistant", content=row.meta["rejected"]))]
            found.append({"images": images, "prompt": prompt, "chosen": answer, "rejected": other})
    return found


def trainer(kind: str, folder: Path, scratch: Path, model: Any, **more: Any) -> Any:
    """One of TRL's trainers."""
    import trl
    from datasets import Dataset

    config, made = (trl.SFTConfig, trl.SFTTrainer) if kind == "sft" else (trl.DPOConfig, trl.DPOTrainer)
    settings = config(
        output_dir=str(scratch), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        per_device_train_batch_size=2, max_length=None,
    )  # fmt: skip
    data = Dataset.from_list(trl_rows(kind)[:2])
    return made(model=model, args=settings, train_dataset=data, processing_class=load_processor(folder), **more)


class Ours:
    """Our loss of the same rows, in one pack, and the gradients of all weights."""

    def __init__(self, folders: tuple[Path, Path], objective: Objective) -> None:
        self.objective, self.text = objective, ChatTokenizer.load(folders[0])
        self.model, was = (open_folder(folder, torch.float64) for folder in folders)
        given = [row for row in rows(objective.kind) if row.messages[0].media]
        dataset = objective.build_training_examples(given, self.text, NOTHING)
        self.rows = [row for example in dataset for row in example.rows]
        for one in (self.model, was):
            attach_media(one, self.text.media, CONTENTS.__getitem__)
        if objective.needs_reference:
            found = compute_row_logprobs(was, self.rows, 1 << 14)
            self.rows = [replace(row, token_values={REFERENCE: own}) for row, own in zip(self.rows, found, strict=True)]

    def compute(self) -> tuple[float, dict[str, torch.Tensor]]:
        moving = dict(self.model.named_parameters())
        with learn_media(self.model, lambda: list_row_media(self.rows)) as media:
            assert media is not None
            pack = build_pack(self.rows)
            with gather_leaves() as leaves:
                logp = compute_pack_logprobs(self.model, pack)
            total = self.objective.loss(logp, pack, pack.token_values.get(REFERENCE)).total
            loss = total / self.objective.denominator(self.rows)
            found = torch.autograd.grad(loss, [*moving.values(), *leaves.tensors], allow_unused=True)
            media.gather(leaves.name(found[len(moving) :]))
            towers = media.gradients(moving.values())
        both = [one if other is None else other if one is None else one + other
                for one, other in zip(found[: len(moving)], towers, strict=True)]  # fmt: skip
        return float(loss.detach()), {name: one for name, one in zip(moving, both, strict=True) if one is not None}

    def learnt(self, ids: torch.Tensor, order: list[TokenRow]) -> torch.Tensor:
        """(rows, tokens) 1 at learnt tokens, for ids as TRL's collator padded them; the ids must be ours."""
        mask = torch.zeros_like(ids)
        for at, row in enumerate(order):
            plain = self.text.plain_ids(row.ids)
            length = min(len(plain), ids.shape[1])
            begin = int((ids[at] == plain[0]).nonzero()[0])
            assert ids[at, begin : begin + length].tolist() == plain[:length]
            mask[at, begin : begin + length] = (torch.tensor(row.loss_weights[:length]) > 0).long()
        return mask


def compare(found: tuple[float, dict[str, torch.Tensor]], model: Any, loss: torch.Tensor) -> None:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    assert found[0] == pytest.approx(float(loss.detach()), abs=1e-6, rel=2e-6)  # TRL's head and its losses are in fp32
    checked = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            torch.testing.assert_close(found[1][name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
            checked += 1
    assert checked > 20


@pytest.mark.filterwarnings("ignore")
def test_sft_is_trls(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ours, model = Ours(folders, Sft()), open_folder(folders[0], torch.float64)
    peer = trainer("sft", folders[0], tmp_path, model)
    batch = peer.data_collator(trl_rows("sft"))
    mask = ours.learnt(batch["input_ids"], ours.rows)
    batch["labels"] = batch["input_ids"].masked_fill(mask == 0, -100)
    batch["pixel_values"] = batch["pixel_values"].double()
    compare(ours.compute(), model, peer.compute_loss(model, batch))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [({}, {"loss_types": ["sigmoid"]}), ({"loss_type": "ipo", "beta": 0.3}, {"loss_types": ["ipo"], "beta": 0.3})],
)
def test_dpo_is_trls(folders: tuple[Path, Path], tmp_path: Path, mine: Any, theirs: Any) -> None:
    ours, model = Ours(folders, DpoObjective(**mine)), open_folder(folders[0], torch.float64)
    peer = trainer("dpo", folders[0], tmp_path, model, ref_model=open_folder(folders[1], torch.float64))
    for name, value in {"beta": 0.1, "label_smoothing": 0.0, "loss_weights": [1.0], **theirs}.items():
        setattr(peer, name, value)
    batch = peer.data_collator(trl_rows("dpo"))
    batch["completion_mask"] = ours.learnt(batch["input_ids"], [*ours.rows[::2], *ours.rows[1::2]])
    batch["pixel_values"] = batch["pixel_values"].double()
    compare(ours.compute(), model, peer.compute_loss(model, batch))
