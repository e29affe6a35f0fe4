"""Gemma 3n: images by a convolutional network (timm's), and per-layer embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.models.media.family import ImageCount, MediaFamily, MediaSettings

if TYPE_CHECKING:
    from torch import Tensor


class Gemma3nFamily(MediaFamily):
    """Every picture has the same number of tokens. Marks around media have embeddings of their own kind."""

    types = ("gemma3n",)

    def embed(self, model: Any, ids: Tensor) -> dict[str, Any]:
        """Return embeddings of text and media marks, and per-layer embeddings of text; zero for media."""
        import torch

        inner = model.model
        embeddings = model.get_input_embeddings()(ids)
        vision, audio = inner.embed_vision, inner.embed_audio
        for part, mask in (
            (vision, (ids >= vision.vocab_offset) & (ids < audio.vocab_offset)),
            (audio, ids >= audio.vocab_offset),
        ):
            known = torch.where(mask, ids, part.vocab_offset + part.vocab_size - 1)
            embeddings = torch.where(mask[..., None], part(input_ids=known).to(embeddings.dtype), embeddings)
        return {"inputs_embeds": embeddings, "per_layer_inputs": inner.language_model.get_per_layer_inputs(ids)}

    def embeds_marks(self, model: Any, ids: Tensor) -> bool:
        """Return whether ids of the image and audio vocabularies are among them."""
        return ids.device.type != "meta" and bool((ids >= model.model.embed_vision.vocab_offset).any())

    def count_image(self, settings: MediaSettings, width: int, height: int) -> ImageCount:
        """Count the tokens and patches of an image: the same for every image; the encoder's patches are its last
        states.
        """
        count = int(settings.config.get("vision_soft_tokens_per_image", 256))
        return ImageCount(count, count, marks=4)
