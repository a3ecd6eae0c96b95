"""README and docs against the code they speak of: pipeline, commands, tables, fault points, stack.json and links."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from agents import TRAINING
from streams.cli.app import app
from streams.faultpoints import POINTS
from streams.local.addresses import Addresses, S3Address

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_first_command_runs_the_demo_and_the_second_the_tests():
    first, second, *_ = blocks(README, "sh")
    assert (first.strip(), second.strip()) == ("scripts/demo", "scripts/test")
    assert all((ROOT / name.strip()).exists() for name in (first, second))


def test_the_readme_lists_the_pipeline_as_it_is():
    table = README.partition("| stage | reads | writes |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert [cells(line) for line in table.splitlines()] == [
        [stage, reads, writes.replace(" | ", ", ")] for stage, reads, writes in TRAINING.topology()
    ]


def test_the_picture_has_every_stage_and_topic_in_the_order_of_the_way():
    picture = next(block for block in blocks(README, "text") if "training.requested" in block)
    ways = [each for each in TRAINING.topology() if each[1] != "index.started"]  # the engine's way is a remark beside the index
    words = [word for stage, reads, _ in ways for word in (reads, f"  {stage} ")]
    places = [picture.index(word) for word in words]
    assert places == sorted(places)
    assert picture.rstrip().endswith("cache.warmed")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_is_one(page):
    command = typer.main.get_command(app)
    for words in re.findall(r"(?:`|bin/)tidemill ([a-z][a-z ]*)", page.read_text()):
        found: Any = command
        for word in words.split():
            if not hasattr(found, "commands"):
                break
            found = found.commands.get(word)
            assert found is not None, f"tidemill {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_path_of_a_page_leads_somewhere(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:streams|agents|schemas|reference|docs|scripts|tests|deploy)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_architecture_explains_every_table_of_the_ledger():
    schema = "\n".join(file.read_text() for file in (ROOT / "streams/ledger/sql").glob("*.sql"))
    tables = set(re.findall(r"^create table (\w+)", schema, re.MULTILINE))
    section = ARCHITECTURE.partition("## The ledger's tables")[2].partition("\n## ")[0]
    first_cells = [cells(line)[0] for line in section.splitlines() if line.startswith("| `")]
    explained = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert explained == tables


def test_architecture_says_of_every_fault_point_what_it_leaves():
    rows = re.findall(r"^\| (P\d+) \| `([a-z.]+)` \|", ARCHITECTURE, re.MULTILINE)
    assert rows == [(said.partition(":")[0], name) for name, said in POINTS.items()]


def test_the_stack_json_of_the_page_is_one():
    shown = json.loads(next(block for block in blocks(ARCHITECTURE, "json") if "kafka" in block))
    assert list(shown) == list(Addresses.model_fields)
    assert list(shown["s3"]) == list(S3Address.model_fields)
    Addresses.model_validate(shown)
