"""What the command line says of the tenants' data, to somebody who looks and to somebody's script."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.quality.data import a_tenant, load, spoil

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # the library's own warnings

Tidemill = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def tidemill(ledger_dsn: str, warehouse_dsn: str, tmp_path: Path) -> Tidemill:
    """The command itself, on this test's ledger and warehouse."""

    async def run(*words: str) -> tuple[int, str, str]:
        told = {"TIDEMILL_LEDGER__DSN": ledger_dsn, "TIDEMILL_WAREHOUSE__DSN": warehouse_dsn, "TIDEMILL_HOME": str(tmp_path)}
        pipe, root = asyncio.subprocess.PIPE, Path(__file__).parents[2]
        argv, environment = [sys.executable, "-m", "streams.cli", *words], {"PATH": "/usr/bin:/bin", "USER": "ada", "COLUMNS": "200", **told}
        process = await asyncio.create_subprocess_exec(*argv, cwd=root, env=environment, stdout=pipe, stderr=pipe)
        out, err = await process.communicate()
        assert b"Traceback" not in err
        return process.returncode or 0, out.decode(), err.decode()

    return run


async def test_who_looks_sees_trouble_first_and_may_let_a_tenant_train(world, tables, tidemill: Tidemill):
    async def document(*words: str) -> Any:
        status, out, err = await tidemill(*words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    await load(tables, a_tenant("sound"))
    await load(tables, spoil(a_tenant("dirty"), kinds=50))
    await world.tick("dirty", "sound")

    listed = await document("quality", "list")
    assert [(each["tenant_id"], each["verdict"]) for each in listed] == [("dirty", "fail"), ("sound", "pass")]
    _, text, _ = await tidemill("quality", "list")
    assert text.index("dirty") < text.index("sound")

    shown = await document("quality", "show", "dirty")
    [types] = [check for check in shown["checks"] if check["check"] == "user_interactions.types"]
    assert (types["status"], types["count"], types["of"]) == ("fail", 50, 250)
    assert (sum(types["kinds"].values()), max(types["kinds"].values())) == (250, 50)
    _, text, _ = await tidemill("quality", "show", "dirty")
    assert text.index("user_interactions.types") < text.index("users.columns")
    assert "allowed to train" not in text

    [entry] = await document("quality", "history", "dirty")
    assert entry["verdict"] == "fail"
    [incident] = await document("incidents", "--tenant", "dirty")
    assert (incident["check_name"], incident["state"]) == ("user_interactions.types", "open")
    assert await document("incidents", "--tenant", "sound") == []

    assert (await tidemill("quality", "allow", "dirty", "--reason", "known, harmless"))[0] == 0
    assert "allowed to train until" in (await tidemill("quality", "show", "dirty"))[1]


@pytest.mark.parametrize("words", [("quality", "show"), ("quality", "history"), ("quality", "allow", "--reason", "x")], ids=" ".join)
async def test_a_tenant_that_is_not_there_is_one_sentence(world, tidemill: Tidemill, words: tuple[str, ...]):
    status, out, err = await tidemill(*words[:2], "nobody", *words[2:])
    assert (status, out, err.partition(":")[0], err.count("\n")) == (1, "", "unknown_tenant", 1)
