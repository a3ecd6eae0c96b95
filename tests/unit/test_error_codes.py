"""docs/operations.md is the catalogue of error codes: whatever code somebody can meet stands in it, with cause and repair."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "docs/operations.md"
FOLDERS = ("schemas", "expectations", "streams", "agents", "reference")
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
CODED = {"Refused", "Flaw", "BadModel", "Failed", "Failure", "CliError", "refused", "problem", "Problem", "refuse", "NotFound"}
"""Callables of which one of the first arguments is a code."""
IN_SQL = re.compile(r"'code', '([a-z_]+)'( \|\|)?|\bv?_?code := '([a-z_]+)'")


def shape(node: ast.expr) -> str | None:
    """A code as written: `{}` stands for what is only known when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        return node.value
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        return text if CODE.fullmatch(text.replace("{}", "x")) else None
    return None


def codes_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func).rpartition(".")[2]
    given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    if name in CODED:
        given += call.args[:3]
    yield from [code for code in map(shape, given) if code][:1]


def codes_in(file: Path) -> Iterator[str]:
    if file.suffix == ".sql":
        for quoted, joined, assigned in IN_SQL.findall(file.read_text()):
            yield f"{quoted}{{}}" if joined else quoted or assigned
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield from codes_of_call(node)
        elif isinstance(node, ast.Dict):
            yield from (code for key, value in zip(node.keys, node.values, strict=True) if key and shape(key) == "code" and (code := shape(value)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (said := re.match(r"([a-z]+(_[a-z]+)+): ", node.value)):
            yield said[1]


def raised() -> dict[str, str]:
    """Code (as written) -> a file that has it."""
    files = [file for folder in FOLDERS for kind in ("*.py", "*.sql") for file in sorted((ROOT / folder).rglob(kind))]
    return {code: str(file.relative_to(ROOT)) for file in files for code in codes_in(file)}


def catalogued() -> list[str]:
    """The codes of the catalogue's rows; those that are mended alike share a row."""
    rows = re.findall(r"^\| (`[^|]+`) \|", CATALOGUE.read_text(), re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


def stands_for(code: str) -> re.Pattern[str]:
    return re.compile(code.replace("{}", "[a-z0-9_]+"))


RAISED = raised()


@pytest.mark.parametrize("code", RAISED)
def test_a_code_that_the_code_raises_stands_in_the_catalogue(code):
    assert any(stands_for(code).fullmatch(each) for each in catalogued()), f"{code} ({RAISED[code]}) has no row in docs/operations.md"


def test_the_catalogue_names_each_code_once_and_none_that_nobody_raises():
    rows = catalogued()
    assert sorted(set(rows)) == sorted(rows)
    source = "\n".join(file.read_text() for folder in FOLDERS for kind in ("*.py", "*.sql") for file in (ROOT / folder).rglob(kind))
    known = [stands_for(code) for code in RAISED if re.search("[a-z]", code)]
    unraised = [row for row in rows if not any(each.fullmatch(row) for each in known)]
    assert [row for row in unraised if not any(quoted in source for quoted in quotes(row))] == []


def quotes(code: str) -> list[str]:
    """How a code that is put together from a neighbour's name, or passed on by a variable, is written in the source."""
    kind = re.sub(r"^(ml_engine|inference|monitoring)_", "", code)
    return [f'"{code}"', f"'{code}'", *([f'"{kind}"', f"}}_{kind}"] if kind != code else [])]


def test_every_row_says_what_happened_and_what_to_do():
    for row in re.findall(r"^\| `.*$", CATALOGUE.read_text(), re.MULTILINE):
        _, _, cause, cure, _ = (cell.strip() for cell in row.split("|"))
        assert cause, row
        assert cure, row
