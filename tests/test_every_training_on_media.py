"""What every objective and every technique promises of rows with pictures: they are learnt in the one loop, a picture
stands once for all rows that show it, rows of text stand between without a picture, any split adds up, and a training
that is killed ends in the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.artifacts.media import MediaReader, MediaWriter
from luthier.chat.media import MEDIA_IDS, list_media_keys
from luthier.chat.media_codec import media_of_bytes
from luthier.chat.messages import Example, ExampleOrigin, Media, Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.component import components_by_kind
from luthier.core.store import Store
from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.media.towers import attach_media, gather_leaves, learn_media, list_row_media
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_packs
from luthier.models.sequence_head import add_sequence_head
from luthier.tune.objective import REFERENCE, Objective, ObjectiveContext, Teacher
from luthier.tune.policy import ActorCritic
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique, TechniqueBase
from luthier.tune.training.reference_logprobs import compute_row_logprob_sums, compute_row_logprobs
from tuning import TuneEnv, _data, made, tune_and_resume
from vision_models import shown, tiny_vision_model

OBJECTIVES = components_by_kind(Objective)
LEARNT = sorted(kind for kind, part in OBJECTIVES.items() if not part.draws)
DRAWN = sorted(kind for kind, part in OBJECTIVES.items() if part.draws)
TECHNIQUES = sorted(kind for kind, part in components_by_kind(TechniqueBase).items() if issubclass(part, Technique))
FAMILIES = ("llava", "qwen2_5_vl")
PAIRED = ("dpo", "simpo", "cpo", "orpo", "reward")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in LEARNT), ("classify", {"head": "sequence"}), ("distil", {"logits": "live"}),
    ("reward", {"head": "verdict"}),
]  # fmt: skip
"""Every objective that learns from given answers, and those of its ways that read a model otherwise."""
ABOUT = ObjectiveContext(classes={"blue": "blue", "red": "red"})
EVERY: list[tuple[str, dict[str, Any]]] = [*CASES, *((kind, {}) for kind in DRAWN)]
LENGTH = max(len(EVERY), len(TECHNIQUES))
DIAGONAL = [
    (kind, fields, "lora" if issubclass(OBJECTIVES[kind], ActorCritic) else TECHNIQUES[at % len(TECHNIQUES)], at % 2)
    for at, (kind, fields) in enumerate(EVERY[at % len(EVERY)] for at in range(LENGTH))
]
"""Each objective with a technique, and each technique with an objective, on one family or the other; a critic is an
adapter itself."""


def plain_picture(number: int) -> tuple[Media, bytes]:
    """A picture of its own that is mostly red or mostly blue."""
    from PIL import Image

    file, shade = io.BytesIO(), 150 + 5 * number
    Image.new("RGB", (30, 28), (shade, 20, number) if number % 2 else (20, number, shade)).save(file, "PNG")
    return media_of_bytes(file.getvalue()), file.getvalue()


PICTURES = [plain_picture(number) for number in range(4)]


def rows(kind: str) -> list[Example]:
    """Two questions about each picture, and rows of text alone between them; as an objective learns from them."""
    found: list[Example] = []
    for number, (media, _) in enumerate(PICTURES):
        name = "red" if number % 2 else "blue"
        for question in ("what colour is it?", "and now?"):
            found.append(_row(shown(question, media, answer=name), name, len(found), kind))
        if number % 2 == 0:
            found.append(_row(shown("is it a word?", answer="red"), "red", len(found), kind))
    return found


def _row(messages: tuple[Message, ...], label: str, number: int, kind: str) -> Example:
    origin = ExampleOrigin(source="test", file="test.jsonl", line=number + 1)
    row = Example(id=f"{number:016x}", origin=origin, kind="label", messages=messages, label=label)
    if kind in PAIRED:
        wrong = "blue it is" if label == "red" else "red it is"
        return row.model_copy(update={"kind": "preference", "label": None, "meta": {"rejected": wrong}})
    if kind == "kto":
        answer = Message(role="assistant", content=label if number % 2 else "green")
        told = {"messages": (*messages[:-1], answer), "label": None, "meta": {"label": bool(number % 2)}}
        return row.model_copy(update=told)
    return row


def build_bench(root: Path, family: str, kind: str) -> TuneEnv:
    store = Store(root / "store")

    def base(folder: Path, seed: int = 0) -> None:
        tiny_vision_model(folder, family, seed)
        (folder / "model.json").write_text(json.dumps({"name": "tiny"}))

    def data(folder: Path) -> None:
        _data(folder, {"train": rows(kind)})
        summary = json.loads((folder / "summary.json").read_text())
        labels = ["blue", "red"] if kind not in (*PAIRED, "kto") else []
        (folder / "summary.json").write_text(json.dumps({**summary, "labels": labels}))
        with MediaWriter(folder) as writer:
            for media, content in PICTURES:
                writer.add(media, content)

    found = TuneEnv(store, made(store, "base", "model", base), made(store, "prepare", "dataset", data), [])
    found.__dict__["teacher"] = made(store, "teacher", "model", lambda folder: base(folder, 5))
    return found


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], TuneEnv]:
    """A bench with the data that an objective learns from, over a model of a family."""
    known: dict[tuple[str, str], TuneEnv] = {}

    def find(family: str, kind: str) -> TuneEnv:
        way = "pair" if kind in PAIRED else "kto" if kind == "kto" else "plain"
        if (family, way) not in known:
            known[family, way] = build_bench(tmp_path_factory.mktemp(f"{family}-{way}"), family, kind)
        return known[family, way]

    return find


def objective_of(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The settings of an objective; one that draws answers draws few."""
    if not OBJECTIVES[kind].draws:
        return {"kind": kind, **fields}
    rollout = {"num_generations": 2, "max_completion_length": 3}
    return {"kind": kind, "rewards": [{"kind": "regex", "pattern": "e"}], "rollout": rollout, **fields}


class Reading:
    """The loss of an objective over rows with pictures in float64, towers and all learning, and its gradients."""

    def __init__(self, objective: Objective, env: TuneEnv) -> None:
        self.objective, self.text = objective, ChatTokenizer.load(env.base.folder)
        self._read = MediaReader(env.data).read
        self.model, other = (self._open(folder) for folder in (env.base.folder, env.teacher.folder))
        if outputs := objective.outputs(ABOUT):
            self.model = add_sequence_head(self.model, outputs)
            torch.manual_seed(0)
            torch.nn.init.normal_(self.model.score.weight)
        given = rows(type(objective).model_fields["kind"].default)
        dataset = objective.build_training_examples(given, self.text, ABOUT)
        self.rows = [row for example in dataset for row in example.rows]
        attach_media(self.model, self.text.media, self._read)
        attach_media(other, self.text.media, self._read)
        self.teacher = Teacher(other, self.text.vocabulary) if objective.needs_teacher else None
        if objective.needs_reference:
            found = compute_row_logprobs(other, self.rows, 1 << 14)
            self.rows = [
                replace(row, token_values={**row.token_values, REFERENCE: own})
                for row, own in zip(self.rows, found, strict=True)
            ]

    def _open(self, folder: Path) -> Any:
        return open_folder(folder, torch.float64)

    def gradients(self, tokens: int) -> tuple[float, list[torch.Tensor]]:
        """With packs of at most so many tokens."""
        moving = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        sums, total = [torch.zeros_like(one) for one in moving], 0.0
        prepared = self.objective.prepare_rows(
            self.rows, lambda some: compute_row_logprob_sums(self.model, some, tokens)
        )

        def add(found: Any) -> None:
            for one, own in zip(sums, found, strict=True):
                if own is not None:
                    one.add_(own)

        with learn_media(self.model, lambda: list_row_media(prepared)) as media:
            assert media is not None
            for part in build_packs(prepared, tokens):
                pack = self.objective.ready(part, self.teacher)
                with gather_leaves() as leaves:
                    logp = compute_pack_logprobs(self.model, pack)
                loss = self.objective.loss(logp, pack, pack.token_values.get(REFERENCE)).total
                found = torch.autograd.grad(loss, [*moving, *leaves.tensors], allow_unused=True)
                add(found[: len(moving)])
                media.gather(leaves.name(found[len(moving) :]))
                total += float(loss.detach())
        add(media.gradients(moving))
        return total, sums


@pytest.mark.matrix
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_the_loss_of_rows_that_share_pictures_is_that_of_rows_apart(
    kind: str, fields: dict[str, Any], family: str, benches: Callable[[str, str], TuneEnv]
) -> None:
    reading = Reading(OBJECTIVES[kind].model_validate({"kind": kind, **fields}), benches(family, kind))
    whole, apart = reading.gradients(1 << 14), reading.gradients(1)
    assert whole[0] == pytest.approx(apart[0], abs=1e-9, rel=1e-9)
    for one, other in zip(whole[1], apart[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)  # norms are in fp32


@pytest.mark.parametrize("kind", LEARNT)
def test_a_picture_stands_once_for_all_rows_that_show_it_and_text_has_none(
    kind: str, benches: Callable[[str, str], TuneEnv]
) -> None:
    env = benches("llava", kind)
    text = ChatTokenizer.load(env.base.folder)
    objective = OBJECTIVES[kind].model_validate({"kind": kind})
    dataset = objective.build_training_examples(rows(kind), text, ABOUT)
    found: list[TokenRow] = [row for example in dataset for row in example.rows]
    (pack,) = build_packs(found, 1 << 14)
    tokens = [token for token in pack.ids.tolist() if token >= MEDIA_IDS]
    assert len(tokens) == len(set(tokens)), "no token of a picture is computed twice"
    assert len(list_media_keys(tokens)) == len(PICTURES)
    with_picture = [any(token >= MEDIA_IDS for token in row.ids) for example in dataset[:3] for row in example.rows[:1]]
    assert with_picture == [True, True, False]


@pytest.mark.matrix("distil*ia3*", "dpo*", "classify*adapter-0", "online_dpo*", "raft*", "reinforce*")
@pytest.mark.parametrize(("kind", "fields", "technique", "number"), DIAGONAL)
def test_it_is_learnt_and_ends_in_the_same_bytes_when_it_is_killed(
    kind: str, fields: dict[str, Any], technique: str, number: int, tmp_path: Path
) -> None:
    env = build_bench(tmp_path, FAMILIES[number], kind)
    step = Tune.model_validate(
        {
            "data": "data", "objective": objective_of(kind, fields), "technique": {"kind": technique}, "epochs": 1,
            "batch_size": 3, "learning_rate": 5e-3, "dtype": "float32", "max_grad_norm": 1.0, "save_steps": 1,
            "teacher": "teacher" if OBJECTIVES[kind].needs_teacher else None,
        }
    )  # fmt: skip
    whole, again = tune_and_resume(env, step, before=2)
    assert whole == again
    assert "log.jsonl" in whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "technique",
    [
        *({"kind": kind} for kind in TECHNIQUES),
        *({"kind": "lora", "on": on} for on in (["vision"], ["language", "projector", "vision"], ["language"])),
        {"kind": "adapter", "adapter_type": "houlsby"}, {"kind": "layers", "last": 1, "names": ["*vis*"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_technique_moves_as_much_as_it_says(
    technique: dict[str, Any], family: str, benches: Callable[[str, str], TuneEnv]
) -> None:
    base = benches(family, "sft").base.folder
    made_technique = Tune.model_validate({"data": "data", "technique": technique}).technique
    assert isinstance(made_technique, Technique)
    described = describe_model_folder(base)
    if made_technique.refuses("sft", described):
        pytest.skip("no parameter is called so in this family")
    model = made_technique.adapt(made_technique.open(benches(family, "sft").base, torch.float32), 0)
    moving = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    assert sum(moving.values()) == made_technique.trainable(described), sorted(moving)
