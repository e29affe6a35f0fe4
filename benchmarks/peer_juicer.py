"""The peer: Data-Juicer at the like steps, on one process. Run by `benchmarks/data.py` with a Python that has it.

    PYTHON benchmarks/peer_juicer.py CORPUS FOLDER

Unicode repair, white space, HTML, e-mail and IP patterns, its own filters of repetition and signs, exact copies, and
MinHash. Its language filter is left out, for it downloads a model; near copies are not verified.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_juicer.config import init_configs  # type: ignore[import-not-found]
from data_juicer.core import DefaultExecutor  # type: ignore[import-not-found]

RECIPE = """
project_name: like-steps
dataset_path: {corpus}
export_path: {folder}/out.jsonl
np: 1
work_dir: {folder}/work
ds_cache_dir: {folder}/cache
use_cache: false
open_tracer: false
skip_op_error: false
process:
  - fix_unicode_mapper:
  - whitespace_normalization_mapper:
  - clean_html_mapper:
  - clean_email_mapper:
  - clean_ip_mapper:
  - alphanumeric_filter:
      min_ratio: 0.6
  - special_characters_filter:
      max_ratio: 0.4
  - average_line_length_filter:
      min_len: 10
  - text_length_filter:
      min_len: 100
  - words_num_filter:
      tokenization: false
      min_num: 50
  - character_repetition_filter:
      rep_len: 10
      max_ratio: 0.4
  - word_repetition_filter:
      tokenization: false
      rep_len: 4
      max_ratio: 0.4
  - document_deduplicator:
      lowercase: true
  - document_minhash_deduplicator:
      tokenization: space
      window_size: 5
      jaccard_threshold: 0.8
      num_permutations: 128
"""


def main(corpus: Path, folder: Path) -> None:
    """One recipe."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(corpus=corpus, folder=folder))
    DefaultExecutor(init_configs(["--config", str(recipe)])).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
