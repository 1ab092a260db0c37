"""What the dashboard refuses before it opens."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lsprism.errors import DiskError, RequestError, SpecError
from lsprism.ui import serve

ROOT = Path(__file__).parents[2]


def test_a_password_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "auth").write_text("ann:se:cret\n")
    assert serve.read_auth(str(tmp_path / "auth")) == ("ann", "se:cret")
    monkeypatch.setenv(serve.AUTH, "bob:x")
    assert serve.read_auth("env") == ("bob", "x")
    assert serve.read_auth(None) is None


@pytest.mark.parametrize("content", ["", "ann", "ann:", ":x"])
def test_half_an_auth_is_refused(tmp_path, content):
    (tmp_path / "auth").write_text(content)
    with pytest.raises(SpecError):
        serve.read_auth(str(tmp_path / "auth"))


def test_an_auth_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(serve.AUTH, raising=False)
    for where in (str(tmp_path / "none"), "env"):
        with pytest.raises(SpecError, match="auth"):
            serve.read_auth(where)


def test_another_host_needs_auth(capsys):
    assert serve.main(["--host", "0.0.0.0"]) == 2
    assert "requires --auth" in capsys.readouterr().err


def test_a_port_in_use_is_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 2
        assert f"Port {port} is in use" in capsys.readouterr().err


def test_without_a_port_the_next_free_one_is_taken(monkeypatch):
    monkeypatch.setattr(serve, "_is_free", lambda host, port: port == serve.PORT + 2)
    assert serve.find_free_port("127.0.0.1", None) == serve.PORT + 2
    monkeypatch.setattr(serve, "_is_free", lambda host, port: False)
    with pytest.raises(RequestError, match="all in use"):
        serve.find_free_port("127.0.0.1", None)


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(SpecError, match="no.such.host.invalid"):
        serve.find_free_port("no.such.host.invalid", 1234)


def test_a_home_that_cannot_be_made_is_a_disk_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="--state-dir"):
        serve.prepare_home(str(tmp_path / "file" / "home"))


@pytest.mark.parametrize("option", ["--state-dir", "--home"])
def test_the_state_folder_has_an_earlier_name_that_help_does_not_show(option, capsys):
    assert serve.read_options([option, "x"]).state_dir == "x"
    with pytest.raises(SystemExit):
        serve.read_options(["--help"])
    assert "--home" not in (text := capsys.readouterr().out) and "--state-dir" in text


def test_the_home_is_for_its_owner_alone(tmp_path):
    home = serve.prepare_home(str(tmp_path / "home"))
    assert (home / "page").stat().st_mode & 0o077 == 0


def test_checking_needs_neither_torch_nor_gradio():
    code = "import lsprism.ui.serve, sys; sys.exit(bool({'torch', 'gradio', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_the_page_is_built_without_torch():
    code = "import lsprism.ui.dashboard, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    env = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env).returncode == 0


@pytest.mark.parametrize(
    ("host", "named", "address"),
    [
        ("::1", "[::1]", "http://[::1]:7860"),
        ("[0:0:0:0:0:0:0:1]", "[::1]", "http://[::1]:7860"),
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:7860"),
        ("[::]", "[::]", "http://localhost:7860"),
    ],
)
def test_the_address_can_be_opened(tmp_path, monkeypatch, capsys, host, named, address):
    from lsprism.ui import dashboard

    opened = []
    monkeypatch.setenv(serve.AUTH, "ann:x")
    monkeypatch.setattr(serve, "find_free_port", lambda host, asked: 7860)
    monkeypatch.setattr(serve, "prepare_environment", lambda home: None)
    monkeypatch.setattr(dashboard, "launch", lambda home, host, port, **how: opened.append((host, port)))
    assert serve.main(["--host", host, "--auth", "env", "--state-dir", str(tmp_path)]) == 0
    assert opened == [(named, 7860)]
    assert f"{address} " in capsys.readouterr().err


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "a" * 300, "\u3002"])
def test_an_address_of_another_machine_is_named(host):
    with pytest.raises(SpecError, match="is not an address of this machine"):
        serve.find_free_port(host, 1234)
