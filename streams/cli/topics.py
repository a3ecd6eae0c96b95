"""`tidemill topics`: the topics as they are declared, and how the broker's differ."""

from typing import Any

import typer

from streams.cli import out
from streams.cli.frame import Json, settings
from streams.cli.frame import run as run_async
from streams.cli.refusal import FAILED, NOT_THERE, CliError

app = typer.Typer(invoke_without_command=True, help="Topics as declared; `diff` compares them with the broker's.")


@app.callback()
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the declared topics; `tidemill topics diff` compares them with the broker's.

    Example: tidemill topics
    """
    if context.invoked_subcommand is not None:
        return
    from schemas.catalogue import FOREIGN
    from streams.topics import declared

    found = [topic._asdict() | {"written_by": "anybody" if topic.name in FOREIGN else "tidemill"} for topic in declared(settings().kafka)]
    columns = ("topic", "partitions", "replication", "written by", "config")
    rows = ((t["name"], t["partitions"], t["replication"], t["written_by"], _config(t["config"])) for t in found)
    out.show(found, as_json, lambda: out.table(columns, rows))


@app.command()
def diff(as_json: Json = False) -> None:
    """Compare the declared topics with the broker's; exit 1 when they differ.

    Example: tidemill topics diff
    """
    found = run_async(_differences())
    out.show(found, as_json, lambda: out.line("\n".join(found) or "the topics are as declared"))
    if found:
        raise typer.Exit(FAILED)


async def _differences() -> list[str]:
    from aiokafka.errors import KafkaError

    from streams.kafka import open_admin
    from streams.topics import declared, differences

    kafka = settings().kafka
    try:
        async with open_admin(kafka) as admin:
            return await differences(admin, declared(kafka))
    except (KafkaError, OSError):
        raise CliError("kafka_away", f"Kafka at {kafka.bootstrap} does not answer; is `tidemill up` running?", NOT_THERE) from None


def _config(config: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in config.items())
