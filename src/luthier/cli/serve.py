"""Commands that serve models: serve, keys."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.output import Json, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace

if TYPE_CHECKING:
    from luthier.serve.server import ListeningServer

keys_app = typer.Typer(help="API keys of `luthier serve`.", no_args_is_help=True, rich_markup_mode=None)
_Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL …]",
        help="RECIPE:STEP, a recipe's last model, RUN:STEP, or a base model's name; PATH=VALUE overrides the recipe "
        "before it. What is released is served anyhow.",
    ),
]
_Pipelines = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=WAYS",
        help="A classifier in front of models: 'help={by: MODEL, to: {CLASS: MODEL}, other: MODEL}'.",
    ),
]
_Tunable = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]MODEL",
        help="A base model that clients may tune, and what they call it; those that are served when not given.",
    ),
]


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.add_typer(keys_app, name="keys")


def serve(  # noqa: PLR0913, PLR0917  # the options of a command
    models: _Models = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="Beyond this machine only when there are keys.")] = "127.0.0.1",
    engine: Annotated[
        str | None,
        typer.Option(
            help="A kind that `luthier components engine` lists, or a mapping: '{kind: torch, max_num_seqs: 8}'."
        ),
    ] = None,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that an answer may take.")] = 600.0,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds to finish what was begun, when told to stop.")] = 30.0,
    traces: Annotated[
        bool, typer.Option("--traces/--no-traces", help="Keep every request in `luthier traces`.")
    ] = True,
    keep: Annotated[
        str | None,
        typer.Option(metavar="SETTINGS", help="How they are kept: '{sample: 0.1, days: 7, names: rampart}'."),
    ] = None,
    router: _Pipelines = None,
    tune: _Tunable = None,
    jobs: Annotated[bool, typer.Option("--jobs/--no-jobs", help="Tune models for clients (`luthier jobs`).")] = True,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Explain answers to keys with the scope `explain`.")
    ] = True,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEP=]EXECUTOR",
            help="Where jobs run, as `luthier run --on` takes it: slurm, or tune='{kind: slurm, partition: gpu}'; the "
            "steps are data and tune. This machine when not given.",
        ),
    ] = None,
    max_jobs: Annotated[int, typer.Option(min=1, help="Jobs that run at once; others wait their turn.")] = 1,
    learnt_system: Annotated[
        bool,
        typer.Option(
            "--learnt-system/--no-learnt-system",
            help="Begin conversations that have no system message with the one of all training rows.",
        ),
    ] = True,
    as_json: Json = False,
) -> int:
    """Serve models over an OpenAI-compatible API until stopped; prints the address."""
    from luthier.api.explain import build_explain_routes
    from luthier.api.fine_tuning import build_fine_tuning_routes
    from luthier.commands.serve import FineTuningServiceConfig
    from luthier.commands.serve import serve as serve_models
    from luthier.serve.server import ServerSettings

    server_config = ServerSettings(host=host, port=port, grace_s=grace)
    return serve_models(
        current_workspace(),
        models or (),
        server_config,
        engine=engine,
        deadline_s=deadline,
        traces=traces,
        keep=keep,
        pipelines=router or (),
        jobs=FineTuningServiceConfig(tune=tune or (), on=on or (), limit=max_jobs, doors=build_fine_tuning_routes)
        if jobs
        else None,
        explanations=build_explain_routes if explain else None,
        apply_training_prompt=learnt_system,
        tell=lambda listening: _tell(listening, as_json=as_json),
    )


def _tell(listening: ListeningServer, *, as_json: bool) -> None:
    """Where it listens, at once, also to a pipe."""
    facts = {"url": listening.url, "host": listening.host, "port": listening.port, "models": listening.models}
    print_line(json.dumps(facts) if as_json else f"{', '.join(listening.models)} at {listening.url}; Ctrl-C stops it")
    sys.stdout.flush()


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="What traces call it, such as support-bot.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="infer (the default), tune, explain, data or admin; may be repeated."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="How often it may ask; without it, no limit.")] = None,
    person: Annotated[str | None, typer.Option(help="Whose it is: it is revoked when the account is closed.")] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print it once."""
    from luthier.commands.keys import create_api_key

    key = create_api_key(current_workspace(), name, scope or ["infer"], requests_per_minute, person)
    print_json({"name": name, "key": key}) if as_json else print_line(key)


@keys_app.command("list")
def keys_list(as_json: Json = False) -> None:
    """List API keys, including revoked ones."""
    from luthier.commands.keys import list_api_keys

    rows = list_api_keys(current_workspace())
    if as_json:
        print_json({"keys": rows})
        return
    head = ("name", "id", "scopes", "a minute", "made (UTC)", "revoked (UTC)", "person")
    print_table(head, [(r["name"], r["id"], " ".join(r["scopes"]), *_shown(r), r["owner"] or "") for r in rows])


def _shown(row: dict[str, object]) -> tuple[object, ...]:
    """The rate, and moments to the minute."""
    return row["requests_per_minute"] or "", *(str(row[name] or "")[:16] for name in ("made_at", "revoked_at"))


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="The key's name.")], as_json: Json = False) -> None:
    """Revoke an API key; a running server refuses it within two seconds."""
    from luthier.commands.keys import revoke_api_key

    revoke_api_key(current_workspace(), name)
    print_json({"revoked": name}) if as_json else print_line(f"{name} opens nothing any more")
