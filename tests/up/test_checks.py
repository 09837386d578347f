import os
import socket
from pathlib import Path
from typing import Any

import pytest

from server.configuration import SettingsError, StartFailed
from server.up.checks import prepared
from server.up.keyring import Keyring
from server.up.options import Options
from server.up.parts import check_settings, parts, variables


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def options(folder: Path, **changes: Any) -> Options:
    values: dict[str, Any] = {"port": unused_port(), "data_dir": folder / "data"} | changes
    return Options(**values)


def test_data_folder_is_made_for_this_user_only(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    with prepared(chosen):
        assert chosen.data_dir.stat().st_mode & 0o777 == 0o700


def test_folder_with_other_things_keeps_its_mode(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    chosen.data_dir.mkdir(mode=0o755)
    (chosen.data_dir / "holiday.jpg").touch()
    with prepared(chosen):
        assert chosen.data_dir.stat().st_mode & 0o777 == 0o755


def test_second_up_on_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    expected = rf"process {os.getpid()}\).*{chosen.data_dir}"
    with prepared(chosen), pytest.raises(StartFailed, match=expected), prepared(chosen):
        pass
    with prepared(chosen):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_port_in_use_is_named(tmp_path: Path, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as other:
        try:
            other.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartFailed, match=f"Port {port} is in use.*--port"), prepared(options(tmp_path, port=port)):
            pass


def test_file_in_place_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StartFailed, match="data is not a folder"), prepared(options(tmp_path)):
        pass


def test_file_above_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    chosen = options(tmp_path, data_dir=tmp_path / "file" / "data")
    with pytest.raises(StartFailed, match="is not a folder"), prepared(chosen):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    chosen.data_dir.mkdir()
    (chosen.data_dir / "something").touch()
    chosen.data_dir.chmod(0o500)
    with pytest.raises(StartFailed, match="cannot be written to"), prepared(chosen):
        pass


def test_stale_ready_file_is_removed(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("of an earlier run")
    with prepared(options(tmp_path, ready_file=ready)):
        assert not ready.exists()


@pytest.mark.parametrize("name", ["nowhere/ready.json", "."])
def test_ready_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    chosen = options(tmp_path, ready_file=tmp_path / name)
    with pytest.raises(StartFailed, match=r"ready file .* cannot be written.*--ready-file"), prepared(chosen):
        pass


def test_broken_setting_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = variables(options(tmp_path), Keyring.new(), tmp_path)
    assert check_settings(values).public_url.startswith("http://localhost:")
    monkeypatch.setenv("ORCH8_STALE_LIMIT", "soon")
    with pytest.raises(SettingsError, match="ORCH8_STALE_LIMIT"):
        check_settings(values)


def test_parts_get_the_users_settings_but_for_those_that_up_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH8_STALE_LIMIT", "7")
    monkeypatch.setenv("ORCH8_SERVER_ADDR", "elsewhere:1")
    monkeypatch.setenv("ORCH8_TLS_CERT_FILE", "/cert.pem")
    made = parts(options(tmp_path, plan="pro"), Keyring.new(), tmp_path)
    assert [part.name for part in made] == ["edge", "proxy", "server"]
    for part in made:
        assert part.environment["ORCH8_STALE_LIMIT"] == "7"
        assert part.environment["ORCH8_SERVER_ADDR"] == f"unix:{tmp_path}/server.sock"
        assert part.environment["ORCH8_DEFAULT_PLAN"] == "pro"
        assert "ORCH8_TLS_CERT_FILE" not in part.environment


def test_no_secret_is_among_the_arguments(tmp_path: Path) -> None:
    keyring = Keyring.new()
    for part in parts(options(tmp_path), keyring, tmp_path):
        assert not {keyring.secret_key, keyring.dataplane_token, keyring.supabase_jwt_secret} & set(part.command)
