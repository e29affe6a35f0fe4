"""Sequence heads over multimodal models, for families of which transformers has none.

Importing this module registers them with `AutoModelForSequenceClassification`: such a folder opens in plain
transformers after the import.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.modeling_layers import GenericForSequenceClassification

from luthier.models.media.family import list_family_types


class _MediaSequenceHead(GenericForSequenceClassification):  # type: ignore[misc]  # transformers has no types
    """transformers' generic sequence head, over the part of a model that ends in hidden states, encoders included."""

    @property
    def get_image_features(self) -> Any:
        """The base model's image encoder."""
        return self.model.get_image_features

    @property
    def get_audio_features(self) -> Any:
        """The base model's audio encoder."""
        return self.model.get_audio_features


def _register(model_type: str) -> None:
    config_kind = type(AutoConfig.for_model(model_type))
    known = config_kind in AutoModelForSequenceClassification._model_mapping
    if known or config_kind not in AutoModel._model_mapping:
        return
    body = AutoModel._model_mapping[config_kind]
    name = f"{body.__name__.removesuffix('Model')}ForSequenceClassification"
    family = next(kind for kind in body.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    head = type(name, (_MediaSequenceHead, family), {"__module__": __name__, "config_class": config_kind})
    AutoModelForSequenceClassification.register(config_kind, head, exist_ok=True)


for _type in list_family_types():
    _register(_type)
