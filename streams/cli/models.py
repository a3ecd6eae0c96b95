"""The verbs about what is served and how it is made: `versions` and `pipelines …`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import out
from streams.cli.frame import Json, ask, load_pipelines, reading, settings
from streams.cli.frame import run as run_async
from streams.cli.refusal import accepted

if TYPE_CHECKING:
    from streams.pipelines import Pipelines
    from streams.stage import Pipeline

pipelines = typer.Typer(no_args_is_help=True, help="The pipelines a worker carries: list, graph.")


def versions(tenant: Annotated[str, typer.Argument(help="A tenant id.")], as_json: Json = False) -> None:
    """List a tenant's model versions, the newest first.

    Example: tidemill versions acme
    """
    found = ask(lambda reader: reader.versions(tenant))
    columns = ("version", "state", "run", "instead of", "live since (UTC)", "retired (UTC)", "index", "reason")
    rows = ((v.number, v.state, out.short(v.run_id), v.instead_of, v.live_at, v.retired_at, v.index_path, v.reason) for v in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


@pipelines.command("list")
def list_(as_json: Json = False) -> None:
    """List the pipelines: paused or active, when they run next, how the last run ended, how many runs are in each state.

    Example: tidemill pipelines list
    """
    found = run_async(_listed())
    columns = ("pipeline", "version", "state", "next due (UTC)", "last run", "ended (UTC)", "runs", "begins with", "stages")
    rows = (
        (
            *(p["name"], p["version"], "paused" if p["paused"] else "active", p["next_due"]),
            *(f"{p['last_tenant']} {out.short(p['last_run'])} {p['last_state']}" if p["last_run"] else None, p["last_ended"]),
            *(_counts(p["runs"]), p["takes"], " → ".join(stage["name"] for stage in p["stages"])),
        )
        for p in found
    )
    out.show(found, as_json, lambda: out.table(columns, rows))


@pipelines.command()
def graph(
    pipeline: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    dot: Annotated[bool, typer.Option("--dot", help="For Graphviz.")] = False,
    as_json: Json = False,
) -> None:
    """Draw what each stage reads and writes.

    Example: tidemill pipelines graph --dot
    """
    carried = load_pipelines(settings())
    chosen = _chosen(carried, pipeline)
    document = {each.name: [dict(zip(("stage", "reads", "writes"), row, strict=True)) for row in each.topology()] for each in chosen}
    text = "\n\n".join((_dot if dot else _text)(each) for each in chosen)
    out.show(document, as_json, lambda: out.line(text))


async def _listed() -> list[dict[str, Any]]:
    from streams.carried import carried

    found = settings()
    async with reading(found) as reader:
        return await carried(reader, load_pipelines(found))


def _chosen(carried: "Pipelines", name: str | None) -> "list[Pipeline]":
    from streams.requests import refused

    if name is not None and name not in carried.by_name:
        accepted(refused("unknown_pipeline", pipeline=name, pipelines=", ".join(carried.by_name)))
    return [each for each in carried.all if name in (None, each.name)]


def _text(pipeline: "Pipeline") -> str:
    rows = pipeline.topology()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {reads:<{widths[1]}} → {stage:<{widths[0]}} → {writes}" for stage, reads, writes in rows]
    return "\n".join([f"{pipeline.name} {pipeline.version}", *lines])


def _dot(pipeline: "Pipeline") -> str:
    edges = []
    for stage, reads, writes in pipeline.topology():
        edges += [f'  "{reads}" -> "{stage}";', *(f'  "{stage}" -> "{topic}";' for topic in writes.split(" | "))]
    boxes = [f'  "{stage}" [shape=box];' for stage, _, _ in pipeline.topology()]
    return "\n".join([f'digraph "{pipeline.name}" {{', "  rankdir=LR;", *boxes, *dict.fromkeys(edges), "}"])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())
