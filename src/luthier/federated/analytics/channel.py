"""Opens the channel to the queried sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from luthier.core.step import StepContext
from luthier.federated.analytics.worker import QueryWorker
from luthier.federated.sites.worker import open_scratch
from luthier.federated.transport import LocalChannel, SiteChannel, Transport
from luthier.federated.transports.processes import ProcessesTransport
from luthier.federated.update_sum import build_local_masks


def open_query_channel(
    work: StepContext,
    sites: Sequence[str],
    transport: Transport | None,
    *,
    masks: bool,
    traffic: Mapping[str, Path] | None = None,
    references: Path | None = None,
) -> SiteChannel:
    """Open the channel to the sites; without a transport, they are simulated on this machine.

    Their rows are then inputs of the step, and their requests are in the folders of `traffic`.
    """
    if isinstance(transport, ProcessesTransport):
        return transport.open_channel(work, sites, traffic, references)
    if transport is not None:
        return transport.open_channel(work, sites)
    workers, own = {}, build_local_masks(work, sites) if masks else {}
    for at, name in enumerate(sites):
        scratch = open_scratch(work.scratch / "sites" / name)
        inputs = {"data": work.inputs[f"sites.{at}"]} if traffic is None else {}
        worker = QueryWorker(name, replace(work, inputs=inputs, scratch=scratch), masks=own.get(name))
        worker.traffic, worker.references = (traffic or {}).get(name), references
        workers[name] = worker
    return LocalChannel(workers, {name: masks.identity.card for name, masks in own.items()})
