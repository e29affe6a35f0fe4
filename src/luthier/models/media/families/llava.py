"""LLaVA (Liu et al., 2023), whose encoder may be CLIP, SigLIP or Pixtral's."""

from __future__ import annotations

from typing import Any

from luthier.models.media.family import FrozenEncoder, MediaFamily


class LlavaFamily(MediaFamily):
    """A projector of two layers over the states of some of an encoder's layers."""

    types = ("llava",)

    def find_projection(self, model: Any) -> FrozenEncoder:
        """The encoder and the projector of a plain model."""
        layers = model.config.vision_feature_layer
        classes = model.config.vision_feature_select_strategy == "default"
        return FrozenEncoder(
            model.model.vision_tower,
            model.model.multi_modal_projector,
            (layers,) if isinstance(layers, int) else tuple(layers),
            classes=classes,
        )
