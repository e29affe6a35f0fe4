"""Prints names that are used although no Python line calls them: for the search of dead code.

Parts are found by registration, functions of the report by its templates, the rest by frameworks.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

from luthier.commands.components import list_component_roles
from luthier.core.component import components_by_kind
from luthier.models.media.family import find_family, list_family_types
from luthier.traces.record import Feedback, Trace

SEAMS = "needs_reference Other Recorder Route Resolver Models shadow retire"
"""Fields of a role that no member sets yet, and classes that a test defines to be found."""
RECORDS = (
    "mean_chars conflicts prompt_words activations grad_norm rank_agreement_low rank_agreement_high "
    "lora_rank adapter_size"
)
"""Fields of records that are printed or written whole."""
SOURCE = Path(__file__).parent.parent / "src"
FRAMEWORKS = (
    "adapter_layer_names merged_adapters _disable_adapters _active_adapter tuner_layer_cls target_module_mapping "
    "_create_and_replace _name_ _value_ is_serializable is_trainable "
    "quant_method _is_hf_initialized param_needs_quantization get_quantize_ops "
    "cache_ok down_revision branch_labels depends_on type_annotation_map impl process_bind_param process_result_value "
    "isolation_level __getattr__ model_config decoder post_processor normalizer pytestmark protocol_version "
    "TRACKIO_DIR text_factory capture_signals generate_trace_id generate_span_id "
    "__traceback__ _timeout thread_type pix_fmt "
    "do_GET do_HEAD do_POST daemon_threads handle_error log_message handle_starttag handle_startendtag handle_endtag "
    "handle_data signum s3_environment closure train_dataloader training_step configure_optimizers"
)


def main() -> None:
    """Print one name a line, as Python that vulture reads."""
    names = set(f"{FRAMEWORKS} {RECORDS} {SEAMS}".split())
    names |= {"Trace", "Feedback", *Trace.model_fields, *Feedback.model_fields}  # written whole
    for role in list_component_roles().values():
        names |= {part.__name__ for part in components_by_kind(role).values()}
    names |= {type(find_family(name)).__name__ for name in list_family_types()}
    for template in SOURCE.rglob("*.jinja"):
        names |= set(re.findall(r"[A-Za-z_]\w*", template.read_text(encoding="utf-8")))
    known = sorted(name for name in names if not keyword.iskeyword(name))
    sys.stdout.write("".join(f"{name}\n" for name in known))


if __name__ == "__main__":
    main()
