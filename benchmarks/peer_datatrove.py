"""The peer: datatrove at the like steps, on one worker. Run by `benchmarks/data.py` with a Python that has it.

    PYTHON benchmarks/peer_datatrove.py CORPUS FOLDER

Unicode repair, Gopher's quality and repetition filters, e-mail and IP patterns, and the four stages of MinHash. Its
language filter is left out, for it downloads a model; it knows no exact match but through MinHash, and verifies none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
from datatrove.pipeline.filters import (  # type: ignore[import-not-found]
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter  # type: ignore[import-not-found]
from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
from datatrove.pipeline.writers.jsonl import JsonlWriter  # type: ignore[import-not-found]


def main(corpus: Path, folder: Path) -> None:
    """All passes, one after the other."""
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    clean, signatures, buckets, ids, out = (str(folder / name) for name in ("clean", "sig", "buckets", "ids", "out"))
    passes = [
        [
            JsonlReader(str(corpus.parent), glob_pattern=corpus.name, text_key="text", id_key="number"),
            FTFYFormatter(),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            PIIFormatter(),
            JsonlWriter(clean, compression=None),
        ],
        [JsonlReader(clean), MinhashDedupSignature(output_folder=signatures, config=config)],
        [MinhashDedupBuckets(input_folder=signatures, output_folder=buckets, config=config)],
        [MinhashDedupCluster(input_folder=buckets, output_folder=ids, config=config)],
        [JsonlReader(clean), MinhashDedupFilter(input_folder=ids), JsonlWriter(out, compression=None)],
    ]
    for number, steps in enumerate(passes):
        tasks = config.num_buckets if number == 2 else 1
        logs = str(folder / f"logs{number}")
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=logs).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
