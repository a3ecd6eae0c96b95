"""The built wheel in an environment of its own, away from the checkout: it brings all it needs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv" / "bin" / "uv"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh environment `env`, into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    python = folder / "env" / "bin" / "python"
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env")
    run(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", ROOT / "requirements.lock")
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", next(folder.glob("*.whl")))
    return folder


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEMILL_", "VIRTUAL_ENV", "PYTHON"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_five_packages_are_ours_and_not_somebody_elses(elsewhere: Path) -> None:
    for package in ("schemas", "expectations", "streams", "agents", "reference"):
        found = run(elsewhere / "env/bin/python", "-c", f"import {package}; print({package}.__file__)", cwd=elsewhere)
        assert str(elsewhere / "env") in found


def test_the_command_works_from_any_folder(elsewhere: Path) -> None:
    assert "validate" in run(elsewhere / "env/bin/tidemill", "pipelines", "graph", cwd=elsewhere)


def test_init_finds_its_sql_and_a_worker_its_pages(elsewhere: Path, platform: dict[str, Any], ledger_dsn: str) -> None:
    environment = {
        "TIDEMILL_HOME": str(elsewhere / "home"),
        "TIDEMILL_KAFKA__BOOTSTRAP": platform["kafka"],
        "TIDEMILL_LEDGER__DSN": ledger_dsn,
        "TIDEMILL_WAREHOUSE__DSN": platform["warehouse"],
        "TIDEMILL_S3__ENDPOINT": platform["s3"]["endpoint"],
        "TIDEMILL_S3__ACCESS_KEY": platform["s3"]["access_key"],
        "TIDEMILL_S3__SECRET_KEY": platform["s3"]["secret_key"],
    }
    run(elsewhere / "env/bin/tidemill", "init", cwd=elsewhere, **environment)
    assert run(elsewhere / "env/bin/tidemill", "runs", "--json", cwd=elsewhere, **environment).strip() == "[]"
    site = next((elsewhere / "env/lib").glob("python*/site-packages"))
    for file in (
        "streams/web/templates/overview.html",
        "streams/web/static/tidemill.css",
        "streams/local/kafka/jars.lock",
        "streams/ledger/queries.sql",
    ):
        assert (site / file).is_file(), f"{file} is not in the wheel"
