import json
from dataclasses import asdict
from pathlib import Path

import pytest

from server.configuration import StartFailed
from server.up.keyring import Keyring


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets.json"


def test_is_made_once_and_kept(path: Path) -> None:
    first = Keyring.open(path)
    assert Keyring.open(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_no_two_folders_share_a_secret(tmp_path: Path) -> None:
    one, other = (asdict(Keyring.open(tmp_path / name)) for name in ("a", "b"))
    assert [name for name, value in one.items() if value and value == other[name]] == []


def test_remembers_an_api_key(path: Path) -> None:
    changed = Keyring.open(path).with_api_key("orc8_live_x", path)
    assert Keyring.open(path) == changed
    assert changed.api_key == "orc8_live_x"


@pytest.mark.parametrize(
    "change",
    [
        {"secret_key": "c2hvcnQ="},
        {"secret_key": "not base64!"},
        {"org_id": "../elsewhere"},
        {"user_id": "nobody"},
        {"api_key": None},
        {"dataplane_token": ""},
    ],
    ids=str,
)
def test_broken_value_is_an_error_and_stays(path: Path, change: dict[str, object]) -> None:
    text = json.dumps(asdict(Keyring.new()) | change)
    path.write_text(text)
    with pytest.raises(StartFailed, match=r"secrets\.json is broken"):
        Keyring.open(path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\x00"])
def test_broken_file_is_an_error_and_stays(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(StartFailed, match="is broken"):
        Keyring.open(path)
    assert path.read_text() == text


def test_folder_in_its_place_is_an_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartFailed, match="cannot be read"):
        Keyring.open(path)
