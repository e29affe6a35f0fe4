"""A translation model in a folder: Marian (one pair of languages), NLLB or M2M100 (many)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import hide_transformers_output

NLLB = {
    "ar": "arb_Arab", "cs": "ces_Latn", "da": "dan_Latn", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn",
    "es": "spa_Latn", "fi": "fin_Latn", "fr": "fra_Latn", "he": "heb_Hebr", "hi": "hin_Deva", "hu": "hun_Latn",
    "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan", "ko": "kor_Hang", "nl": "nld_Latn", "no": "nob_Latn",
    "pl": "pol_Latn", "pt": "por_Latn", "ro": "ron_Latn", "ru": "rus_Cyrl", "sv": "swe_Latn", "th": "tha_Thai",
    "tr": "tur_Latn", "uk": "ukr_Cyrl", "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip
"""NLLB's names of languages (Costa-jussà et al. 2022, table 1), by ISO 639 code."""


class MachineTranslation(NamedTuple):
    """A translation, and whether it is whole: False for one that reached the limit, or a text that is too long."""

    text: str
    finished: bool


class Translator:
    """A sequence-to-sequence model, read when it is first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def translate(
        self, text: str, source: str, target: str, *, seed: int, temperature: float, limit: int
    ) -> MachineTranslation:
        """One text in another language; of a Marian model both languages are its own."""
        import torch

        ids = self._tokenizer_for(source)(text, return_tensors="pt")
        longest = getattr(self._model.config, "max_position_embeddings", None) or 1 << 30
        if ids["input_ids"].shape[1] > longest:
            return MachineTranslation("", finished=False)
        limit = min(limit, longest - 1)
        generate_args: dict[str, Any] = {"max_new_tokens": limit, "num_beams": 1, **self._begin(target)}
        if temperature:
            generate_args |= {"do_sample": True, "temperature": temperature, "top_p": 0.95, "top_k": 0}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = self._model.generate(**ids, **generate_args)
        ended = bool((made[0] == self._model.generation_config.eos_token_id).any())
        return MachineTranslation(
            str(self._tokenizer.decode(made[0], skip_special_tokens=True)).strip(), finished=ended
        )

    def _tokenizer_for(self, language: str) -> Any:
        if self._many:
            self._token(language)
            self._tokenizer.src_lang = NLLB[language] if self._is_nllb else language
        return self._tokenizer

    def _begin(self, language: str) -> dict[str, int]:
        """The token with which a model of many languages begins what it writes."""
        return {"forced_bos_token_id": self._token(language)} if self._many else {}

    def _token(self, language: str) -> int:
        """The token of a language: NLLB's `deu_Latn`, M2M100's `__de__`; `ModelError` when the model has none."""
        name = NLLB.get(language, language) if self._is_nllb else f"__{language}__"
        token = self._tokenizer.convert_tokens_to_ids(name)
        if token in (None, self._tokenizer.unk_token_id):
            where = SourceLocation(file=str(self._folder))
            raise ModelError(f"does not know the language {name}", where=where, hint="choose another in `via`")
        return int(token)

    @property
    def _is_nllb(self) -> bool:
        return "Nllb" in type(self._tokenizer).__name__

    @property
    def _many(self) -> bool:
        return getattr(self._tokenizer, "src_lang", None) is not None

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._opened(AutoTokenizer)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        return self._opened(AutoModelForSeq2SeqLM, use_safetensors=True).eval()

    def _opened(self, what: Any, **more: Any) -> Any:
        try:
            with hide_transformers_output():
                return what.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False, **more)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            message = str(error).strip().split("\n", 1)[0]
            hint = "give a Marian, NLLB or M2M100 folder with safetensors weights and its tokenizer"
            raise ModelError(
                f"no translation model can be read: {message}", where=SourceLocation(file=str(self._folder)), hint=hint
            ) from error
