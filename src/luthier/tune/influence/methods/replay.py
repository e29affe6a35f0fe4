"""Differentiation through training: how the query's loss depends on the weight of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.tune.influence.method import Engine, EngineSettings, InfluenceMethod, check_scores
from luthier.tune.optimizers.adamw import AdamW

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.steps.tune import Tune


class Replay(InfluenceMethod):
    """Repeat the training, then follow each row's weight through every step back from the question's loss.

    The derivative holds for the training as it was: its order, its moments, its clipping. Where a training is smooth it
    foresees retraining best; where a small change ends elsewhere (a high rate, many steps) no derivative does. Every
    step is read once more in both directions, and all states are held in memory: for small runs.
    """

    kind: Literal["replay"] = "replay"

    max_bytes: int = Field(default=4 << 30, ge=1)
    """Maximum memory for the states of all steps."""

    def refuses(self, step: Tune) -> str:
        """Refuse trainings that it cannot differentiate."""
        if not isinstance(step.optimizer, AdamW):
            return f"replay follows AdamW, and the training had {step.optimizer.kind}"
        if step.technique.settings().get("lora_dropout"):
            return "replay follows a training without dropout"
        if step.ema is not None:
            return "the weights that were saved are an average (`ema`)"
        return "it went on from another training's state" if step.resume_from is not None else ""

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """Return each pass forward and backward once, and twice more for each query."""
        return step.epochs * 3 * (1 + 2 * queries)

    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """Return (queries, rows): minus the derivative of each query's loss by each row's weight."""
        import torch

        from luthier.tune.influence.training_replay import TrainingReplay

        queries = study.queries
        replay = TrainingReplay(study)
        steps = replay.run(self.max_bytes)
        scores = []
        for number, query in enumerate(queries, start=1):
            study.reader.weights.set(replay.end.weights)
            scores.append(-replay.differentiate(steps, study.mean_gradient(query), settings.readings))
            study.work.events.progress(number, len(queries), "questions (replay)")
        return check_scores(torch.stack(scores), self.kind)
