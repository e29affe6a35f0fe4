"""A site of a federation: make its keys and its policy, serve a coordinator, and read its log."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from luthier.artifacts.dataset import digest_dataset_content
from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import Artifact
from luthier.core.errors import InputError, SourceLocation
from luthier.core.files import translate_write_errors, write_atomically
from luthier.federated.measure import describe_folder
from luthier.federated.messaging.keys import CARD_FILE, KEY_FILE, FederationIdentity, PublicCard
from luthier.federated.messaging.mailbox import open_mailbox
from luthier.federated.personal.site_model import FEDERATIONS, MODEL
from luthier.federated.sites.ledger import SiteLedger
from luthier.federated.sites.policy import POLICY, SitePolicy
from luthier.federated.sites.server import SiteInputs, SiteServer, approve_order
from luthier.models.source import ModelSource
from luthier.models.steps.base import BaseModelStep
from luthier.monitor.plan import REFERENCES
from luthier.recipe.locate import CommandTarget, find_artifact, find_plan
from luthier.recipe.planner import RecipePlan
from luthier.recipe.runner import run_recipe
from luthier.recipe.schema import MODEL_STEP, Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.retention import traffic_folder

FLOWER_APP_FILES = (
    "pyproject.toml",
    "luthier_bridge/__init__.py",
    "luthier_bridge/apps.py",
    "luthier_bridge/unix_http.py",
)
_POLICY_TEXT = """\
# What this site does for a coordinator. An order that asks for more is refused with the line.
name: {name}
coordinator: {coordinator}      # the coordinator's card.json, which you were handed
recipe: {recipe}         # the site's own recipe: it prepares the rows and names the base model
data: {data}
model: model
{transport}
# bases: [0123456789ab]  # digests of base models that may be tuned; any that the recipe has when left out
techniques: [lora]
objectives: [sft]
optimizers: [adamw]
sums: [ffa, alternate, factors, mean]
parts: []                # further parts an order may use, such as reward.length
metrics: []              # metrics whose sums over held-out rows may be sent
queries: []              # questions that are answered by counts: schema, validate, monitor
# signals: [latency]     # signals that such questions may ask for; those without texts of their own when left out
# monitor: monitor       # the recipe's step monitor, which drift of requests is held against
pooled_counts: false     # whether masked sums over all sites may hold this site's counts below least_class_rows
class_names: false       # whether names of classes may be sent, which objectives over classes need
peers: {{}}                # card.json of every other site by name: numbers are masked towards all of them
# least_group: 3         # fewest sites that the sum of a group may be over; all peers when left out
revoked: []              # fingerprints of stolen keys: nothing is read from them
decontaminate: false     # whether rows may be compared with those of peers, to leave out copies of held-out ones
total_comparisons: 20    # federations in which peers may ask about rows
most_left_out: 0.1       # share of the training rows that may be left out so
require_masks: false     # whether an order without masks is refused
# epsilon: 8             # budget of differential privacy of all federations; orders without it are then refused
delta: 1.0e-5            # chance of failing at which it is counted
unit: row                # what the budget protects: row, meta.COLUMN or site
least_rows: 50           # training rows below which the site takes no part
least_class_rows: 10     # rows of a class below which its name is not sent
rounds: 20               # most rounds of one federation
total_rounds: 200        # most rounds of all federations
hours: 24                # most hours of computing for one federation
approval: always         # a person approves each order: luthier site approve FOLDER DIGEST
"""


def create_keys(folder: Path, name: str, data: str = "") -> PublicCard:
    """Make keys in a folder that has none, with a digest of the site's rows; `InputError` where there are some."""
    if (folder / KEY_FILE).exists():
        raise InputError("there are keys here already", where=SourceLocation(file=str(folder / KEY_FILE)))
    identity = FederationIdentity.create(name)
    if data:
        identity = identity.with_data(name_rows(identity, data))
    identity.write(folder)
    return identity.card


def create_site(
    workspace: Workspace, folder: Path, name: str, coordinator: Path, recipe: str, data: str, transport: dict[str, str]
) -> PublicCard:
    """Make a site's keys and its policy; the card is for the coordinator."""
    PublicCard.read(workspace.resolve(coordinator))
    plan = find_plan(CommandTarget.read(workspace, recipe))
    planned = next((step for step in plan if step.name == data), None)
    if planned is None or planned.step.makes != "dataset":
        hint = f"name the step of {recipe} that prepares the rows"
        raise InputError(f"no step {data!r} makes a data set", where=SourceLocation(field="--data"), hint=hint)
    if all(step.name != MODEL_STEP for step in plan):
        _check_base(plan)
    made = plan.store_of(planned)
    rows = digest_dataset_content(made.open(planned.digest)) if made.has(planned.digest) else planned.digest
    card = create_keys(folder, name, rows)
    lines = "\n".join(
        f"http: {{url: {value}}}" if kind == "http" else f"{kind}: {workspace.resolve(Path(value)).absolute()}"
        for kind, value in transport.items()
    )
    paths = {"coordinator": workspace.resolve(coordinator).absolute(), "recipe": workspace.resolve(recipe).absolute()}
    text = _POLICY_TEXT.format(name=name, data=data, transport=lines, **paths)
    write_atomically(folder / POLICY, text.encode())
    return card


def name_rows(identity: FederationIdentity, digest: str) -> str:
    """A name for rows that changes with them and tells nothing of them to who has not the site's private key."""
    return hmac.new(identity.secret, digest.encode(), hashlib.sha256).hexdigest()[:32]


def is_card_of(identity: FederationIdentity, data: Artifact) -> bool:
    """Whether a card names these rows: by their content, or, made before the rows were there, by their artifact."""
    names = (name_rows(identity, digest) for digest in (digest_dataset_content(data), data.digest))
    return not identity.card.data or identity.card.data in names


def open_site(workspace: Workspace, folder: Path, say: Callable[[str], None]) -> SiteServer:
    """A site ready to serve."""
    policy = SitePolicy.read(folder)
    identity = FederationIdentity.read(folder)
    if identity.card.name != policy.name:
        raise policy.build_refusal("name", f"the keys here are those of {identity.card.name!r}")
    recipe = str(policy.resolve(policy.recipe))
    home = workspace.with_folder(Path(recipe).parent)
    data = find_artifact(CommandTarget.read(home, f"{recipe}:{policy.data}")).artifact
    if not is_card_of(identity, data):
        what = "the rows are others than those that the card names, and the coordinator would take them for the same"
        raise InputError(
            what, where=SourceLocation(file=str(folder / CARD_FILE)), hint="make the site anew, and send its card"
        )
    cards = (PublicCard.read(policy.resolve(path)) for path in policy.peers.values())
    peers = tuple(card for card in cards if card.fingerprint != identity.card.fingerprint)
    references = None
    if policy.monitor is not None:
        watched = find_artifact(CommandTarget.read(home, f"{recipe}:{policy.monitor}")).artifact.check()
        references = watched.folder / REFERENCES
    inputs = SiteInputs(
        data=data.check(),
        model=_open_model(home, recipe, policy.model).check(),
        traffic=traffic_folder(Path(recipe).parent),
        references=references,
        peers=peers,
    )
    card = PublicCard.read(policy.resolve(policy.coordinator))
    return SiteServer(folder, identity, card, open_mailbox(policy), inputs, policy, say)


def _open_model(workspace: Workspace, recipe: str, step: str) -> Artifact:
    """The model of a step of the site's recipe, or the recipe's own base, which no step of it may read."""
    plan = find_plan(CommandTarget.read(workspace, recipe))
    known = {planned.name for planned in plan}
    if step in known or step != MODEL_STEP:
        return find_artifact(CommandTarget.read(workspace, f"{recipe}:{step}")).artifact
    base = Recipe(name="base", steps={MODEL_STEP: BaseModelStep(source=_check_base(plan))})
    return run_recipe(base.in_workspace(workspace), None)[MODEL_STEP].artifact


def write_flower_app(folder: Path) -> list[Path]:
    """Write the app that `flwr run` needs for the transport `flower`; `InputError` where the folder holds something.
    Returns its files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("is not an empty folder", where=SourceLocation(file=str(folder)), hint="name a new folder")
    source = resources.files("luthier.federated") / "flower_app"
    written = []
    with translate_write_errors(folder, "another folder"):
        for name in FLOWER_APP_FILES:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((source / name).read_bytes())
            written.append(path)
    return written


def _check_base(plan: RecipePlan) -> ModelSource:
    """The base model that the site's recipe names; `InputError` where it names none, as one of a plain classifier."""
    if plan.recipe.model is None:
        what = "the recipe names no base model, and a site trains the one that the coordinator's recipe names"
        where = SourceLocation(file=plan.recipe.file, field="model")
        raise InputError(
            what, where=where, hint="write `model: smollm2-135m-instruct`, or what the coordinator trains, at its top"
        )
    return plan.recipe.model


def approve(folder: Path, federation: str) -> str:
    """Approve the order of a federation; returns its digest."""
    return approve_order(folder, federation)


def list_site_models(workspace: Workspace, folder: Path) -> list[dict[str, Any]]:
    """This site's own models of federations that have ended, each with the step of the site's recipe that takes it."""
    policy = SitePolicy.read(folder)
    home = policy.resolve(policy.recipe).parent
    found = []
    for path in sorted((folder / FEDERATIONS).glob(f"*/{MODEL}")):
        record = TrainingRecord.read(describe_folder(path, "", "tune", "model", {}))
        federation = (record.model_extra or {})["federation"]
        base = "" if policy.model == MODEL_STEP else f", model: {policy.model}"
        step = f"{policy.name.replace('-', '_')}_own: {{kind: site_model, folder: {os.path.relpath(path, home)}{base}}}"
        found.append(
            {"federation": federation["federation"], "personal": federation["personal"], "folder": str(path),
             "step": step}
        )  # fmt: skip
    return found


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All messages that the site's log tells of, its chain checked; `InputError` where there is no site."""
    if not (folder / CARD_FILE).is_file():
        hint = "name the folder that `luthier site init` made"
        raise InputError("there is no site here", where=SourceLocation(file=str(folder)), hint=hint)
    return [entry.model_dump(mode="json") for entry in SiteLedger(folder).read()]
