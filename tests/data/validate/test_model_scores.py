"""What a model makes of rows: the same as transformers itself computes, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.chat.messages import Message
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.errors import RecipeError
from luthier.data.checks.enough import LearningCurve
from luthier.data.checks.perplexity import PerplexityOutliers
from luthier.data.checks.profile import DatasetProfile
from luthier.data.dedup.shingles import digest8
from luthier.data.validate.context import CheckData, CheckRow
from luthier.data.validate.model_scores import embed_prompts, measure_prompt_perplexity
from tiny_models import tickets, tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    (folder / "model.json").write_text('{"name": "tiny"}')
    manifest = Manifest(
        digest="1" * 32,
        kind="base",
        makes="model",
        settings={},
        inputs={},
        reads={},
        code="",
        seed=0,
        files=list_files(folder),
    )
    return Artifact(folder, manifest, lambda digest: pytest.fail("no parents"))


def _rows(count: int) -> list[CheckRow]:
    told = tickets(count)
    return [
        CheckRow(
            f"{digest8(row['message']):016x}",
            "test" if at % 4 == 0 else "train",
            (
                Message(role="system", content="Sort the ticket."),
                Message(role="user", content=row["message"]),
                Message(role="assistant", content=row["category"]),
            ),
            row["category"],
        )
        for at, row in enumerate(told)
    ]


def test_surprise_is_what_transformers_computes(model: Artifact) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = _rows(9)
    found = measure_prompt_perplexity(model, rows)
    plain = AutoModelForCausalLM.from_pretrained(model.folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    for row, mine in zip(rows, found.mean, strict=True):
        before = tokenizer.apply_chat_template([m.model_dump(include={"role", "content"}) for m in row.messages[:1]])
        opening = list(before["input_ids"]) + tokenizer("<|im_start|>user\n")["input_ids"]
        told = tokenizer(row.prompt)["input_ids"]
        with torch.no_grad():
            logps = torch.log_softmax(plain(torch.tensor([opening + told])).logits[0], -1)
        wanted = -np.mean([float(logps[len(opening) + at - 1, token]) for at, token in enumerate(told)])
        assert mine == pytest.approx(wanted, abs=1e-3)


def test_a_row_is_read_the_same_among_others(model: Artifact) -> None:
    rows = _rows(20)
    together = measure_prompt_perplexity(model, rows)
    other = measure_prompt_perplexity(model, rows[::-1])
    assert other.mean[::-1] == pytest.approx(together.mean, abs=2e-5)
    assert (other.tokens[::-1] == together.tokens).all()
    assert embed_prompts(model, rows[3:4])[0] == pytest.approx(embed_prompts(model, rows)[3], abs=2e-4)


def test_a_row_without_a_prompt_is_read_by_its_answer(model: Artifact) -> None:
    row = CheckRow("a" * 16, "train", (Message(role="assistant", content="Only an answer."),))
    assert measure_prompt_perplexity(model, [row]).mean[0] > 0


def test_checks_that_read_a_model(model: Artifact) -> None:
    data = CheckData(_rows(120), task="label", model=model)
    (found,) = PerplexityOutliers().look(data)
    assert "median perplexity" in found.finding.sentence
    assert set(found.finding.numbers) == set(PerplexityOutliers.measures)
    (found,) = LearningCurve(on="model", sizes=(0.25, 0.5, 1.0), repeats=1).look(data)
    assert "model with a plain head" in found.finding.sentence
    tables = [table.title for one in DatasetProfile().look(data) for table in one.finding.tables]
    assert "Tokens" in tables


def test_a_check_of_a_model_without_one_says_what_to_add() -> None:
    with pytest.raises(RecipeError, match="model: model"):
        list(LearningCurve(on="model").look(CheckData(_rows(120), task="label")))


@pytest.mark.model
def test_a_real_model_finds_noise_unlikely(smollm2: Artifact) -> None:
    check = PerplexityOutliers()
    planted = check.plant(_rows(60))
    (found,) = check.look(CheckData(planted.rows, task="label", model=smollm2))
    assert planted.ids <= {row.id for row, _, _ in found.marks}
    (clean,) = check.look(CheckData(_rows(60), task="label", model=smollm2))
    assert len(clean.marks) <= 60 * check.false_alarms
