"""The command that explains an answer: explain."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.cli.output import Json, print_json, print_line
from luthier.cli.workspace import current_workspace
from luthier.core.errors import InputError, SourceLocation

if TYPE_CHECKING:
    from luthier.commands.explain_model import ModelExplanation


def register_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(explain)


_OF_ONE_ANSWER = ("trace", "traffic", "answer", "part", "instead", "method", "units", "refine", "orders", "to")
"""Options that mean something where one answer is explained, and nothing where a model is."""


def _list_given_options(context: typer.Context) -> dict[str, list[str]]:
    """The options that were typed, by parameter, each with its words."""
    words: dict[str, list[str]] = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.param_type_name == "option" and source is not None and source.name == "COMMANDLINE":
            value, option = context.params[str(parameter.name)], parameter.opts[0]
            values = value if isinstance(value, list | tuple) else [value]
            words[str(parameter.name)] = [option] if value is True else [w for v in values for w in (option, str(v))]
    return words


def explain(  # noqa: PLR0913, PLR0917  # the options of a command
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="RECIPE:STEP|MODEL", help="A tuned step, a recipe's last model, or a base model.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE …]", help="The recipe's overrides, as they were given to `luthier run`."),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is asked.")] = None,
    row: Annotated[
        str | None, typer.Option(metavar="ID", help="A row of the model's data, by the beginning of its id.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option(metavar="ID", help="A request that `luthier traces` kept, with the answer it got.")
    ] = None,
    traffic: Annotated[
        Path | None, typer.Option("--in", metavar="PATH", help="Where the request is kept; the model's own traffic.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Why this model answers so and that one does not, and both scores."),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The answer or class to explain; the model's own when not given.")
    ] = None,
    part: Annotated[str, typer.Option(metavar="TEXT", help="The part of the answer to explain.")] = "",
    instead: Annotated[
        str, typer.Option(metavar="TEXT", help="Explain why the answer, or class, and not this one.")
    ] = "",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Several times: attnlrp, leave_one_out, shapley, …; NAME:setting=value."),
    ] = None,
    units: Annotated[
        Literal["auto", "turns", "documents", "shots", "sentences", "words", "tokens", "patches", "seconds"],
        typer.Option(
            help="What is scored; auto: sentences, or words where there are few. Media: patches, seconds beside."
        ),
    ] = "auto",
    refine: Annotated[
        Literal["words", "tokens"] | None,
        typer.Option(help="Then explain the strongest units by their words or tokens."),
    ] = None,
    orders: Annotated[
        int, typer.Option(min=0, help="Random orders that the ranking is compared with; 0: no faithfulness.")
    ] = 39,
    dtype: Annotated[
        Literal["float32", "bfloat16", "auto"], typer.Option(help="What the model computes in.")
    ] = "float32",
    seed: Annotated[int, typer.Option(help="Draws random orders.")] = 0,
    show: Annotated[
        Literal["answer", "changes", "flips", "rules", "label-sets"],
        typer.Option(help="Why one answer; or what tuning changed, what flips labels, rules, or label sets."),
    ] = "answer",
    to: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a heat map as one HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Explain an answer: which parts of the prompt it comes from, and how far that can be trusted."""
    from luthier.commands.explain import check_heat_map_path
    from luthier.commands.explain import explain as explain_answer
    from luthier.commands.explain_model import explain_model
    from luthier.commands.traces import get_trace_by_id
    from luthier.recipe.locate import CommandTarget
    from luthier.recipe.models import find_model

    if to is not None:
        check_heat_map_path(to)
    workspace = current_workspace()
    given = _list_given_options(context)
    if show != "answer" and (unused := [given[name][0] for name in _OF_ONE_ANSWER if name in given]):
        what = f"means nothing with `--show {show}`, which is about a model and not about one answer"
        raise InputError(what, where=SourceLocation(field=unused[0]), hint="leave it out")
    typed = " ".join(shlex.join(words) for words in given.values())
    _, artifact = find_model(CommandTarget.read(workspace, model, overrides, f"explain {{}} {typed}".rstrip()))
    kept = get_trace_by_id(workspace.find_meant([model]), traffic, trace).trace if trace is not None else None
    rival = find_model(CommandTarget.read(workspace, against))[1] if against is not None else None
    if show != "answer":
        print_model_explanation(
            explain_model(show, artifact, rival, text=text, row=row, dtype=dtype, seed=seed), as_json=as_json
        )
        return
    explanation = explain_answer(
        artifact,
        text=text,
        row=row,
        trace=kept,
        against=rival,
        answer=answer,
        part=part,
        instead=instead,
        methods=method or (),
        units=units,
        refine=refine,
        dtype=dtype,
        seed=seed,
        orders=orders,
        say=lambda text: typer.echo(text, err=True),
    )
    if to is not None:
        explanation.write(to)
    if as_json:
        print_json(explanation.as_json())
        return
    for line in explanation.lines():
        print_line(line)
    if to is not None:
        print_line(f"wrote {to}")


def print_model_explanation(explanation: ModelExplanation, *, as_json: bool) -> None:
    """Print what was found of a whole model."""
    if as_json:
        print_json(explanation.as_json())
        return
    for line in explanation.lines():
        print_line(line)
