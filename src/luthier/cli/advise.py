"""The command that advises which technique to take: advise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.cli.output import Json, format_bytes, format_seconds, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace

if TYPE_CHECKING:
    from luthier.auto.advice.predict import RankedTechnique
    from luthier.commands.advise import RowsAdvice


def register_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(advise)


def advise(  # noqa: PLR0913, PLR0917  # the options of a command
    data: Annotated[str, typer.Argument(metavar="DATA", help="Your rows: a file, folder, pattern or URL.")],
    model: Annotated[str | None, typer.Option(help="The base model; smollm2-135m-instruct when not given.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="What training and measuring may take, such as 30m.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="What they may hold, such as 8GB.")] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="What one answer may take, such as 200ms.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="RULE", help='The quality that is wanted, such as "macro_f1 >= 0.9".')
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="COLUMN|TEMPLATE", help="The column that the model is given, as `new` has it.")
    ] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column with the answer.")] = None,
    want: Annotated[
        Literal["answer", "classify", "extract", "rewrite", "prefer"] | None,
        typer.Option(help="What is wanted of the model. What fits the rows when not given."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Measure for a minute: the plain classifier, and the base model if it is here."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank the techniques for your data by expected quality, with time, memory, reasons and evidence."""
    from luthier.commands.advise import advise as advise_on

    rows_advice = advise_on(
        data,
        prompt=prompt and prompt.replace("\\n", "\n"),
        answer=answer,
        want=want,
        workspace=current_workspace(),
        model=model,
        budget=budget,
        memory=memory,
        latency=latency,
        target=target,
        probe=probe,
    )
    if as_json:
        print_json(rows_advice.as_json())
        return
    _print(rows_advice)


def _print(found: RowsAdvice) -> None:
    ranking = found.ranking
    print_line(found.rows)
    chance = any(technique.chance is not None for technique in ranking.techniques)
    header = ["technique", ranking.metric, "95 %", *(["target"] if chance else []), "time", "memory"]
    choices = [technique for technique in ranking.techniques if not technique.left_out]
    print_table(header, [_cells(choice, chance=chance) for choice in choices])
    for number, choice in enumerate(choices, 1):
        print_line(f"{number}. {choice.technique}: {choice.reason}")
    for technique in ranking.techniques:
        if technique.left_out:
            print_line(f"left out: {technique.technique}: {technique.left_out}")
    first = ranking.first
    if first is not None and first.thin:
        print_line(f"evidence for {first.technique} is thin: {first.thin}")
    if first is None:
        print_line("no technique is left to choose")
    elif first.evidence:
        print_line(f"evidence for {first.technique}:")
        for sentence in first.evidence:
            print_line(f"  · {sentence}")
    for turn in ranking.turns:
        print_line(f"what would change it: {turn}")
    if any(choice.fetches for choice in choices):
        print_line("note: the base model is not here and is fetched first")
    for text in (*found.speeds, *found.notes):
        print_line(f"note: {text}")


def _cells(one: RankedTechnique, *, chance: bool) -> list[str]:
    reached = [f"{100 * one.chance:.0f} %" if one.chance is not None else ""] if chance else []
    return [
        one.technique,
        f"{one.quality:.2f}",
        f"{one.low:.2f}–{one.high:.2f}",
        *reached,
        format_seconds(one.seconds),
        format_bytes(one.peak_bytes),
    ]
