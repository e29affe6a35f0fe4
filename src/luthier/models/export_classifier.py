"""Give a plain classifier out: its two files, a script that opens them in scikit-learn, and a card."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.models import open_classifier
from luthier.models.card import data_licences, history, lineage
from luthier.models.open_classifier import SETTINGS_FILE, WEIGHTS_FILE
from luthier.text.training import TrainingRecord

if TYPE_CHECKING:
    from luthier.models.card import Measured

NEAR = 1e-6
"""Difference of probabilities beyond which the export is another classifier."""
_TERMS = 200
"""Terms of the vocabulary that are classified to compare."""


def write_classifier(artifact: Artifact, folder: Path, measures: Measured | None) -> str:
    """Write the export into an empty folder, open it by its own script, and say how it was checked."""
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        shutil.copyfile(artifact.path(name), folder / name)
    script = Path(str(open_classifier.__file__))
    shutil.copyfile(script, folder / script.name)
    checked = _compare(artifact, folder, folder / script.name)
    (folder / "README.md").write_text(_card(artifact, measures, checked), encoding="utf-8")
    return checked


def _compare(artifact: Artifact, folder: Path, script: Path) -> str:
    """Probabilities of some texts by the script that was written, beside the model's own."""
    import numpy as np

    from luthier.models.text_classifier import TextClassifier

    pipeline = runpy.run_path(str(script))["open_pipeline"](folder)  # an import would leave its bytecode in the export
    terms = sorted(pipeline[0].vocabulary)
    texts = ["", *(" ".join(terms[at : at + 7]) for at in range(0, len(terms), max(1, len(terms) // _TERMS)))]
    wanted = TextClassifier.open(artifact.folder).probabilities(texts)
    apart = float(np.abs(pipeline.predict_proba(texts) - wanted).max())
    if apart > NEAR:
        remedy = "nothing was written; this is a fault worth reporting, unless the files changed meanwhile"
        what = f"the export answers otherwise than the model: probabilities differ by {apart:.2g}"
        raise ModelError(what, remedy=remedy)
    return f"probabilities of {len(texts)} texts differ by {apart:.1g} at most"


def _card(artifact: Artifact, measures: Measured | None, checked: str) -> str:
    """The README: front matter that the hub reads, then plain text."""
    record = TrainingRecord.read(artifact)
    front = {"library_name": "sklearn", "pipeline_tag": "text-classification", "tags": ["luthier", "sklearn"]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n",
        "# Plain classifier\n",
        f"TF-IDF of words with logistic regression, made with Luthier from {record.rows:,} rows of "
        f"{len(record.classes)} classes; {record.features:,} features. There is no base model, and no pickle.\n",
        "```python\nfrom open_classifier import open_pipeline  # needs scikit-learn and safetensors\n\n"
        'pipeline = open_pipeline(".")\npipeline.predict_proba(["..."])\n```\n',
        f"Written as `sklearn`, opened again by `open_classifier.py` and checked: {checked}.\n",
        *history(artifact, measures),
        "## Licence\n\n" + "\n".join(data_licences(lineage(artifact))) + "\n",
    ]
    return "\n".join(part for part in parts if part)
