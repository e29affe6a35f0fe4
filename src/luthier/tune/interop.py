"""Interoperability with other training loops: rows for a Hugging Face `Trainer`, packs for Lightning, losses for both.

Rows, label masks and losses are those of Luthier's own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.chat.messages import Example
from luthier.core.errors import DataError, InputError, ModelError
from luthier.tune.objective import REFERENCE, Objective, ObjectiveContext
from luthier.tune.training.schedule import BatchSampler

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import Pack, TokenRow

IGNORED = -100
"""Label of a token that is not trained on, as in transformers."""


def to_hf_dataset(objective: Objective, examples: Sequence[Example], text: ChatTokenizer) -> Dataset:
    """Return the rows of an objective as a data set with `input_ids`, `attention_mask` and `labels`.

    Any collator that pads labels takes it, such as `DataCollatorForSeq2Seq`. Raises `InputError` for an objective whose
    rows labels alone cannot express: for those there are packs.
    """
    from datasets import Dataset

    rows = _build_rows(objective, examples, text)
    if objective.outputs(ObjectiveContext.of(examples)) or not _labels_suffice(objective, rows):
        raise InputError(
            f"{objective.kind} weighs or compares what it learns here, which labels cannot tell",
            hint="train from packs: `build_optimizer_steps` or `build_lightning_datamodule`",
        )
    return Dataset.from_list(
        [
            {
                "input_ids": list(row.ids),
                "attention_mask": [1] * len(row.ids),
                "labels": [
                    token if weight else IGNORED for token, weight in zip(row.ids, row.loss_weights, strict=True)
                ],
            }
            for row in rows
        ]
    )


def _refuse_own_loop(objective: Objective) -> None:
    if objective.needs_teacher:
        what = f"{objective.kind} learns from a teacher, which only Luthier's own loop asks"
        raise InputError(what, hint="tune with a recipe, with `teacher:` in its step")
    if objective.draws:
        what = f"{objective.kind} learns from what the model itself writes, which only Luthier's own loop has it do"
        raise InputError(what, hint="tune with a recipe")


def _build_rows(objective: Objective, examples: Sequence[Example], text: ChatTokenizer) -> list[TokenRow]:
    _refuse_own_loop(objective)
    rows = [
        row
        for example in objective.build_training_examples(examples, text, ObjectiveContext.of(examples))
        for row in example.rows
    ]
    if not rows:
        raise DataError("nothing can be learnt from any of these examples")
    return rows


def _labels_suffice(objective: Objective, rows: Sequence[TokenRow]) -> bool:
    plain = all(row.group_size == 1 and not row.choices and {*row.loss_weights} <= {0.0, 1.0} for row in rows)
    return plain and objective.denominator(rows) == sum(len(row.targets) for row in rows)


def build_compute_loss_func(objective: Objective) -> Callable[..., Tensor]:
    """Return an objective as the `compute_loss_func` of a `Trainer` that trains on the rows of `to_hf_dataset`.

    The sum is divided by the trained tokens of the whole optimizer step, so that gradient accumulation changes nothing.
    """
    import torch

    from luthier.models.packing.pack import TokenRow, build_pack

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        mask = labels != IGNORED
        rows = [
            TokenRow(label.clamp(min=0).tolist(), here.double().tolist())
            for label, here in zip(labels, mask, strict=True)
        ]
        logits = outputs["logits"][:, :-1][mask[:, 1:]]
        logp = torch.log_softmax(logits.float(), -1).gather(1, labels[:, 1:][mask[:, 1:], None])[:, 0]
        total = objective.loss(logp, build_pack(rows).on(labels.device), None).total
        return total / (objective.denominator(rows) if num_items_in_batch is None else num_items_in_batch)

    return loss


class OptimizerStep:
    """The packs of one optimizer step, and the denominator of their summed loss."""

    def __init__(self, packs: Sequence[Pack], denominator: float, outputs: Sequence[str] = ()) -> None:
        self.packs, self.denominator = tuple(packs), denominator
        self.outputs = tuple(outputs)
        """Outputs of the sequence head that the model must have; empty for a language head."""

    def to(self, device: torch.device, **_: Any) -> OptimizerStep:
        """Copy the packs to a device; Lightning calls it."""
        return OptimizerStep([pack.on(device) for pack in self.packs], self.denominator, self.outputs)

    def loss(self, model: Any, objective: Objective) -> Tensor:
        """Return the loss of the step, as `training_step` does.

        The model's built-in dropout is active under the same objectives as in Luthier's own loop: not under preference
        objectives.
        """
        import torch

        from luthier.models.packing.logprobs import compute_pack_logprobs
        from luthier.models.sequence_head import get_head_outputs, unwrap_peft_model
        from luthier.tune.training.reference_logprobs import enable_dropout

        if (has := get_head_outputs(unwrap_peft_model(model))) != self.outputs:
            heads = [
                f"a sequence head for {', '.join(names)}" if names else "a language head"
                for names in (self.outputs, has)
            ]
            hint = "build it with `luthier.models.sequence_head.add_sequence_head(model, step.outputs)` first"
            raise ModelError(f"{objective.kind} wants {heads[0]} here, the model has {heads[1]}", hint=hint)
        with enable_dropout(model, objective) if model.training and not objective.builtin_dropout else nullcontext():
            sums = [
                objective.loss(compute_pack_logprobs(model, pack), pack, pack.token_values.get(REFERENCE)).total
                for pack in self.packs
            ]
        return torch.stack(sums).sum() / self.denominator


class OptimizerStepSettings(NamedTuple):
    """How examples are batched: epochs, rows of each step, and the maximum tokens of a pack."""

    epochs: float = 1.0
    batch_size: int = 32
    max_tokens_per_microbatch: int = 4096
    seed: int = 0


USUAL = OptimizerStepSettings()


def build_optimizer_steps(
    objective: Objective,
    examples: Sequence[Example],
    text: ChatTokenizer,
    settings: OptimizerStepSettings = USUAL,
    reference: Any = None,
) -> list[OptimizerStep]:
    """Return the steps that Luthier's own loop would take over these examples, in its order, with shared prefixes
    packed.

    `reference` is the model before training, for an objective such as `dpo`: it reads every row once, here. Raises
    `InputError` for an objective that needs a teacher, or completions of the model itself.
    """
    from luthier.models.packing.pack import build_packs

    _refuse_own_loop(objective)
    about = ObjectiveContext.of(examples, seed=settings.seed)
    row_groups = [
        list(example.rows) for example in objective.build_training_examples(examples, text, about) if example.rows
    ]
    if not row_groups:
        raise DataError("nothing can be learnt from any of these examples")
    if objective.needs_reference:
        row_groups = _add_reference_logprobs(objective, row_groups, reference, settings.max_tokens_per_microbatch)
    sampler = BatchSampler(
        seed=settings.seed, count=len(row_groups), epochs=settings.epochs, batch_size=settings.batch_size
    )
    optimizer_steps = []
    for number in range(sampler.steps):
        token_rows = [row for index in sampler.get_batch_indices(number) for row in row_groups[index]]
        rows = objective.prepare_rows(token_rows, partial(_refuse_asking, objective))
        read = build_packs(rows, settings.max_tokens_per_microbatch)
        optimizer_steps.append(OptimizerStep(read, objective.denominator(rows), objective.outputs(about)))
    return optimizer_steps


def _add_reference_logprobs(
    objective: Objective, row_groups: Sequence[list[TokenRow]], reference: Any, tokens: int
) -> list[list[TokenRow]]:
    """Return the examples with the reference model's log-probabilities of their trained tokens."""
    from luthier.tune.training.reference_logprobs import compute_row_logprobs

    if reference is None:
        what = f"{objective.kind} compares with the model as it was"
        raise InputError(what, hint="give that model, before its first step, as `reference`")
    logps = iter(compute_row_logprobs(reference, [row for rows in row_groups for row in rows], tokens))
    return [
        [replace(row, token_values={**row.token_values, REFERENCE: next(logps)}) for row in rows] for rows in row_groups
    ]


def _refuse_asking(objective: Objective, rows: Sequence[TokenRow]) -> Sequence[float]:
    what = f"{objective.kind} asks the model before each step, which only Luthier's own loop does"
    raise InputError(what, hint="tune with a recipe")


def build_lightning_datamodule(
    objective: Objective,
    examples: Sequence[Example],
    text: ChatTokenizer,
    settings: OptimizerStepSettings = USUAL,
    reference: Any = None,
) -> Any:
    """Return the steps of `build_optimizer_steps` as a `LightningDataModule`: each batch is one `OptimizerStep`."""
    from lightning import LightningDataModule
    from torch.utils.data import DataLoader

    steps = build_optimizer_steps(objective, examples, text, settings, reference)

    class Packs(LightningDataModule):  # type: ignore[misc]  # mypy does not follow lightning
        """Batches that are whole optimizer steps."""

        def train_dataloader(self) -> Any:
            return DataLoader(steps, batch_size=None)  # type: ignore[arg-type]  # a list

    return Packs()
