"""Clouds that read the rows of a tuning job from a bucket, in a region."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from luthier.tune.hosted import HostedEvent, HostedTechnique, check_url
from luthier.tune.hosted_client import ProviderClient

StorageUrl = Annotated[str, AfterValidator(check_url)]
"""Where the API of a bucket begins."""


class BucketTechnique(HostedTechnique):
    """A technique of a cloud that reads rows from a bucket, and lists no events of a job."""

    region: Annotated[str, Field(pattern="^[a-z0-9-]{1,32}$")]
    """The cloud's region, such as `us-east-1` (AWS) or `us-central1` (Google Cloud)."""

    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """The cloud lists none."""
        return []

    @property
    def _api(self) -> str:
        """Where the API of the region begins."""
        return self.url.replace("{region}", self.region).rstrip("/")
