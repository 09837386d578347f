"""`orch8-cloud templates`, and a server that does not start on a broken template."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.providers.templates.catalog import BUILT_IN
from tests.meta.source import ROOT
from tests.support.server import settings


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An operator's folder with one template, which is good."""
    template = json.loads((BUILT_IN / "fan-out" / "template.json").read_text())
    template |= {"id": "tmpl_mine", "name": "mine", "sequence": {**template["sequence"], "name": "mine"}}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "template.json").write_text(json.dumps(template))
    return tmp_path


def spoil(folder: Path) -> None:
    path = folder / "mine" / "template.json"
    path.write_text(path.read_text().replace("${config.max_attempts}", "${config.attempts}"))


def test_good_ones_are_listed(folder: Path) -> None:
    ended = command("templates", str(folder))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("tmpl_mine  free  Sends each event")
    assert ended.stdout.count("\n") == 1
    assert command("templates").stdout.count("tmpl_") >= 6


def test_broken_ones_are_one_sentence_and_exit_code_2(folder: Path) -> None:
    spoil(folder)
    ended = command("templates", str(folder))
    reason = "the placeholder config.attempts refers to nothing"
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"orch8-cloud: {folder / 'mine' / 'template.json'}: {reason}\n"


def test_the_server_does_not_start_on_a_broken_one(folder: Path, tmp_path: Path) -> None:
    spoil(folder)
    chosen = settings(tmp_path / "data")
    ended = command(
        "serve",
        ORCH8_DATA_DIR=str(chosen.data_dir),
        ORCH8_DATAPLANE_TOKEN=chosen.dataplane_token.get_secret_value(),
        ORCH8_SECRET_KEY=chosen.secret_key.get_secret_value(),
        ORCH8_SUPABASE_JWT_SECRET=chosen.supabase_jwt_secret.get_secret_value(),
        ORCH8_SERVER_LISTEN="127.0.0.1:0",
        ORCH8_TEMPLATE_DIRS=json.dumps([str(folder)]),
    )
    assert ended.returncode == 2
    file = folder / "mine" / "template.json"
    assert f"ORCH8_TEMPLATE_DIRS: {file}: the placeholder config.attempts refers to nothing" in ended.stderr


def test_the_help_teaches() -> None:
    text = command("templates", "--help", COLUMNS="200").stdout
    assert "ORCH8_TEMPLATE_DIRS=" in text
    assert "template.json" in text
