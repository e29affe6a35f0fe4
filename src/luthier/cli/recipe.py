"""Commands that work on a recipe: new, plan, run, report, schema."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from luthier.cli.output import Json, format_bytes, format_count, format_seconds, print_json, print_line, print_table
from luthier.cli.workspace import current_workspace

if TYPE_CHECKING:
    from luthier.recipe.planner import RecipePlan
    from luthier.recipe.schema import Recipe

RecipePath = Annotated[
    Path | None, typer.Argument(metavar="RECIPE", help="A recipe file or its folder; else the one here.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="PATH=VALUE", help="For example steps.tune.max_train_samples=500.")
]
On = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[STEP=]EXECUTOR",
        help="Where steps run, whatever `on` says in the recipe: local (this process), process (one for each "
        "step), slurm, or one with settings (tune='{kind: slurm, partition: gpu}'); for one step or for all; may "
        "be repeated.",
    ),
]


_NOTES = 8
"""Notes on somebody's files that are printed; the recipe holds all."""


def register_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(new)
    app.command()(plan)
    app.command()(run)
    app.command()(make)
    app.command()(report)
    app.command()(schema)
    app.command()(migrate)


def _load(recipe: Path | None, overrides: list[str] | None) -> Recipe:
    """The recipe with its overrides; `luthier run steps.tune.max_train_samples=5` names no recipe."""
    from luthier.recipe.schema import Recipe

    workspace = current_workspace()
    assignments = list(overrides or [])
    if recipe is not None and "=" in str(recipe) and not recipe.exists():
        assignments.insert(0, str(recipe))
        recipe = None
    return Recipe.load(workspace.find_recipe(recipe), assignments, workspace)


def new(  # noqa: PLR0913, PLR0917  # the options of a command
    name: Annotated[str, typer.Argument(help="Name of the recipe; a folder of this name is made.")],
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PATH|URL",
            help="Your data: a file, folder, pattern or URL (tables, JSON, documents, mailboxes, chat exports, a "
            "database), a YAML file of axolotl, TRL or LLaMA-Factory, `traces`: what a served model was asked, "
            "annotations:PROJECT: what people labeled, `explain`: the recipe of --base-recipe without the rows that "
            "hurt, or openai:JOB (together:, fireworks:): a provider's finished tuning job.",
        ),
    ] = None,
    table: Annotated[str | None, typer.Option(help="The table or view, when --from is a database.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|TEMPLATE",
            help="With --from: the column that the model is given, or a template of columns: "
            r'"{subject}\n\n{body}". Chosen when not given.',
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --from: the column with the answer that the model is trained on."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Which requests, when --from is traces, such as: rating < 0.")
    ] = None,
    base_recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE[:STEP]",
            help="When --from is traces: the recipe of the model to go on from; else the model with the most recent "
            "request. When --from is explain: the recipe whose step `influence` found rows that hurt.",
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="When you bring no data: `labels` (the default) or `replies`.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The base model; smollm2-135m-instruct when not given. With --from traces: start from it, on the "
            "traffic alone."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="OPERATOR", help="With --from: leave this operator out; may be repeated."),
    ] = None,
    technique: Annotated[
        Literal[
            "auto",
            "lora",
            "qlora",
            "full",
            "layers",
            "adapter",
            "ia3",
            "prefix",
            "p_tuning",
            "prompt",
            "prompt_search",
            "plain",
        ],
        typer.Option(
            help="With --from: the technique. `auto` is the first choice of the advice, of those that tune the base "
            "model where --model names one."
        ),
    ] = "auto",
    want: Annotated[
        Literal["answer", "classify", "extract", "rewrite", "prefer"] | None,
        typer.Option(help="With --from: what is wanted of the model. What fits the rows when not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a recipe that fits your data (or from a template), with the reason for each choice."""
    from luthier.commands.new import ProposalChoices, require_single_source, write_followup_recipe, write_recipe

    choices = ProposalChoices(tuple(without or ()), technique, want)
    source = require_single_source(sources or ())
    if base_recipe is not None:
        written = write_followup_recipe(
            current_workspace(),
            name,
            source,
            base_recipe,
            where=where,
            others=(template, model, table, prompt, answer, *(without or ())),
        )
    else:
        written = write_recipe(
            current_workspace(),
            name,
            source,
            template=template,
            model=model,
            table=table,
            where=where,
            prompt=prompt,
            answer=answer,
            choices=choices,
        )
    if as_json:
        print_json({"recipe": str(written.path), "decisions": written.decisions, "notes": written.notes})
        return
    print_line(f"wrote {written.path}")
    for note in written.notes[:_NOTES]:
        print_line(f"  · {note}")
    if len(written.notes) > _NOTES:
        print_line(f"  · … and {len(written.notes) - _NOTES} more at the head of the recipe")
    for setting_path, text in written.decisions.items():
        setting = (
            setting_path if ": " in setting_path else setting_path.rpartition(".")[2]
        )  # another tool's option comes with its value
        print_line(f"  · {setting}: {text}")
    print_line(f"next: luthier plan {written.path}")


def plan(recipe: RecipePath = None, overrides: Overrides = None, on: On = None, as_json: Json = False) -> None:
    """Show which steps are cached, which will run, and the predicted time, memory and tokens; with --on or where the
    recipe places steps, where each goes and what it is expected to take there."""
    loaded = _load(recipe, overrides)
    recipe_plan = loaded.plan()
    if on or any(step.on is not None for step in loaded.steps.values()):
        _print_placed(recipe_plan, on or (), as_json=as_json)
        return
    if as_json:
        print_json(recipe_plan.as_json())
        return
    for statement in recipe_plan.statements:
        print_line(statement)
    rows = []
    for step in recipe_plan:
        cost = step.forecast
        if cost is None:
            rows.append((step.name, step.step.kind, "cached", "", "", "", step.digest[:12]))
        else:
            numbers = (format_seconds(cost.seconds), format_bytes(cost.peak_bytes), format_count(cost.tokens))
            rows.append((step.name, step.step.kind, "to make", *numbers, cost.how))
    print_table(("step", "kind", "state", "time", "peak memory", "tokens", "how we know"), rows)
    print_line(f"{recipe_plan.recipe.name}: {_together(recipe_plan)}")
    for note in recipe_plan.notes:
        print_line(note)


def _print_placed(what: RecipePlan, on: Sequence[str], *, as_json: bool) -> None:
    from luthier.recipe.executor import parse_placement
    from luthier.recipe.placed_cost import estimate_placed_costs

    placement = parse_placement(on)
    placement.check(what.recipe)
    placement.check_files(what)
    costs = estimate_placed_costs(what, placement)
    if as_json:
        found = what.as_json()
        steps = {cost.name: found["steps"][cost.name] | {"placed": cost.as_json()} for cost in costs}
        print_json(found | {"steps": steps})
        return
    for statement in what.statements:
        print_line(statement)
    rows = []
    for cost in costs:
        if cost.cached:
            rows.append((cost.name, cost.kind, "cached", "", "", "", "", ""))
            continue
        memory, sent = (
            "not known" if value is None else format_bytes(value) for value in (cost.memory, cost.bytes_sent)
        )
        numbers = (_range(cost.seconds, format_seconds), memory, "" if cost.executor in _HERE else sent)
        money = "" if cost.executor in _HERE else _range(cost.money, "${:,.2f}".format)
        rows.append((cost.name, cost.kind, cost.executor, *numbers, money, cost.how))
    print_table(("step", "kind", "on", "time", "peak memory", "sent", "money", "how we know"), rows)
    for note in what.notes:
        print_line(note)


_HERE = ("local", "process")
"""Executors on this machine: nothing is sent and nothing is paid."""


def _range(found: tuple[float, float, float] | None, form: Callable[[float], str]) -> str:
    """A number with its interval, when it has one."""
    if found is None:
        return "not known"
    low, expected, high = (form(value) for value in found)
    return expected if low == high else f"{expected} ({low} to {high})"


def _together(what: RecipePlan) -> str:
    """The whole cost in one phrase; steps whose cost cannot be known yet are named."""
    costs = {step.name: step.forecast.seconds for step in what if step.forecast}
    if not costs:
        return "everything is made"
    unknown = [name for name, cost in costs.items() if cost is None]
    known = f"about {format_seconds(sum(cost or 0 for cost in costs.values()))} to make"
    return f"{known}, and {', '.join(unknown)}, not known yet" if unknown else known


def run(
    recipe: RecipePath = None,
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP", help="Make no more than this step and what it reads; may be repeated."),
    ] = None,
    on: On = None,
    as_json: Json = False,
) -> int:
    """Run the steps that are not cached, then write the report."""
    from luthier.core.render import choose_renderer
    from luthier.recipe.executor import parse_placement
    from luthier.recipe.runner import run_and_record

    loaded, placement = _load(recipe, overrides), parse_placement(on or ())
    with choose_renderer(sys.stderr, json=False) as listener:
        outcome = run_and_record(loaded, listener, only or (), placement)
    if as_json:
        print_json(outcome.result.as_json())
        return outcome.result.exit_code
    for line in outcome.lines():
        print_line(line)
    return outcome.result.exit_code


def make(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="The file of a task, or its URL in a store; - reads standard input.")
    ],
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Start so many processes here as one group, with those of the job's other nodes."),
    ] = None,
) -> None:
    """Make the step of a task that an executor handed to a scheduler; its job calls this. A task of `luthier doctor`
    looks at the machine instead.

    Of several processes that torchrun started, rank 0 makes the artifact, and the others compute with it."""
    from luthier.core.render import choose_renderer
    from luthier.core.system.process import get_rank_in_job
    from luthier.recipe.batch import follow_task_step, make_task_step
    from luthier.recipe.executor import read_task
    from luthier.recipe.machine_task import MachineTask
    from luthier.recipe.torchrun import start_ranks

    if processes is not None:
        start_ranks(task, processes)
    step_task = read_task(task)
    if isinstance(step_task, MachineTask):
        from luthier.commands.executor_health import write_machine_report

        if get_rank_in_job()[0] == 0:
            print_line(write_machine_report(step_task))
        return
    if get_rank_in_job()[0] > 0:
        follow_task_step(step_task)
        return
    with choose_renderer(sys.stderr, json=False) as listener:
        print_line(make_task_step(step_task, listener).digest)


def report(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE|RUN]", help="A recipe file, its folder, or a run's id; else the recipe here."),
    ] = None,
    overrides: Overrides = None,
    to: Annotated[
        Path | None, typer.Option(help="Where to write it: .md is Markdown, .json JSON, .xml JUnit; else HTML.")
    ] = None,
    form: Annotated[
        Literal["html", "markdown", "json", "junit", "github"] | None,
        typer.Option("--format", help="Its form; without --to, all but html are printed. junit and github: the gates."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="RECIPE[:STEP]", help="Another evaluation to compare with; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the one-page report of what a recipe made, or its gates' rules for a CI system."""
    from luthier.recipe.locate import CommandTarget, find_plan
    from luthier.recipe.report import describe_missing_steps, facts_as_json, render_report, write_report

    workspace = current_workspace()
    recipe_plan = find_plan(CommandTarget.read(workspace, recipe, overrides, "report {}"))
    command_targets = [CommandTarget(workspace, word) for word in compare or ()]
    if as_json:
        print_json(facts_as_json(recipe_plan, command_targets))
    elif to is None and form not in (None, "html"):
        print_line(render_report(recipe_plan, form, command_targets).rstrip("\n"))
    else:
        print_line(str(write_report(recipe_plan, to, form, command_targets)))
        if lacks := describe_missing_steps(recipe_plan):
            sys.stderr.write(f"{lacks}\n")


def schema() -> None:
    """Print the JSON schema of recipes, for editors: luthier schema > recipe.schema.json."""
    from luthier.recipe.schema import HEADER, recipe_schema

    print_json(recipe_schema())
    if sys.stdout.isatty():
        sys.stderr.write(f"save it beside a recipe and begin the recipe with: {HEADER}\n")


def migrate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe to rewrite.")],
    check: Annotated[bool, typer.Option("--check", help="Only print what would change.")] = False,
) -> int:
    """Rewrite a recipe that uses former names of settings and kinds; comments and layout stay."""
    from luthier.recipe.migrate import migrate_recipe

    renamed = migrate_recipe(recipe, write=not check)
    print_line("\n".join(map(str, renamed)) or "nothing to rename")
    return int(bool(renamed) and check)
