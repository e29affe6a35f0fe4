"""A model of the Hugging Face hub: from the local hub cache, or over the network when the recipe says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from luthier.core.digest import digest_of
from luthier.core.errors import ModelError, Where
from luthier.models.describe import read_licence
from luthier.models.quiet import no_bars
from luthier.models.source import KEPT, ModelSource, Provenance, Say, adopt, is_hub_id

_PATTERNS = [*KEPT, "*.safetensors", "*.safetensors.index.json", "additional_chat_templates/*.jinja"]
_NOT_LOADED = ["*/*.safetensors", "consolidated*.safetensors", "*.bin", "*.pt", "*.pth"]


class Hub(ModelSource):
    """A model by its id on the Hugging Face hub (`HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_TOKEN` apply)."""

    kind: Literal["hub"] = "hub"
    id: str
    """Owner and name, as in `HuggingFaceTB/SmolLM2-135M-Instruct`."""
    revision: str = "main"
    """A branch, tag or commit; only a commit names the same bytes forever."""
    online: bool = False
    """Whether the hub may be asked. Otherwise the model must already be in the local hub cache."""

    @field_validator("id")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if not is_hub_id(value):
            raise ValueError("wanted OWNER/NAME, as on the hub")
        return value

    def fetch(self, folder: Path, base: Path, say: Say) -> Provenance:
        """Copy the model from the hub's cache, fetched into it first when `online`."""
        snapshot = self._snapshot()
        adopt(snapshot, folder, say)
        commit = snapshot.name
        if self.revision != commit:
            say(f"revision {self.revision!r} of {self.id} is commit {commit}; write that to get the same bytes forever")
        return Provenance(self.id, read_licence(snapshot), f"hub {self.id} at {commit}")

    def identity(self, base: Path) -> str:
        """A digest of the id and the revision."""
        return digest_of([self.id, self.revision])

    def _snapshot(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        where = Where(field="model")
        try:
            with no_bars():
                found = snapshot_download(
                    self.id,
                    revision=self.revision,
                    allow_patterns=_PATTERNS,
                    ignore_patterns=_NOT_LOADED,
                    local_files_only=not self.online,
                    cache_dir=os.environ.get("HF_HUB_CACHE"),
                    endpoint=os.environ.get("HF_ENDPOINT"),
                )
        except GatedRepoError as error:
            remedy = "accept its terms on the hub and set HF_TOKEN"
            raise ModelError(
                f"{self.id} is given out only to those who accepted its terms", where=where, remedy=remedy
            ) from error
        except RevisionNotFoundError as error:
            raise ModelError(f"{self.id} has no revision {self.revision!r}", where=where) from error
        except RepositoryNotFoundError as error:
            remedy = "check the spelling; for a private model set HF_TOKEN"
            raise ModelError(f"the hub has no model {self.id!r}", where=where, remedy=remedy) from error
        except LocalEntryNotFoundError as error:
            raise self._not_here() from error
        except (HfHubHTTPError, OSError) as error:
            raise ModelError(f"the hub could not give {self.id}: {type(error).__name__}", where=where) from error
        return Path(found)

    def _not_here(self) -> ModelError:
        where = Where(field="model")
        if self.online:
            remedy = "connect, or set HF_ENDPOINT to your mirror"
            return ModelError(
                f"{self.id} is not in the local hub cache, and the hub cannot be reached", where=where, remedy=remedy
            )
        wanted = f"model: {{kind: hub, id: {self.id}, online: true}}"
        remedy = f"to fetch it, write `{wanted}`; if a folder was meant, there is none of that name"
        return ModelError(
            f"{self.id} (revision {self.revision!r}) is not in the local hub cache", where=where, remedy=remedy
        )
