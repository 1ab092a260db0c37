"""Starts the dashboard: checks the options and serves the page, by default to this machine only."""

import argparse
import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lsprism.errors import DiskError, LSPrismError, RequestError, SpecError
from lsprism.extras import translate_import_errors
from lsprism.paths import expand
from lsprism.ui.texts import fill_names
from lsprism.ui.texts import server as texts

PORT, PORTS = 7860, 20  # without --port: the first free one of PORTS
AUTH = "LSPRISM_AUTH"
REMEDY = texts.AUTH_HINT.format(variable=AUTH)


def main(words: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C. Exit codes are those of the command line: 0, 1, 2."""
    options = read_options(words)
    try:
        serve(options)
    except LSPrismError as error:
        sys.stderr.write(texts.ERROR.format(error=error))
        return error.exit_code
    return 0


def dashboard(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    state_dir: str | Path | None = None,
    auth: str | None = None,
    open: bool = False,
) -> None:
    """Open the dashboard, and serve it until Ctrl-C.

    `port` None: the first free one from 7860. `state_dir` None: the user's state folder. `auth`: a file that holds
    name:password, or "env" for LSPRISM_AUTH. `open`: open the page in the browser. Raises SpecError for a host other
    than this machine without `auth`, RequestError for a port in use, DiskError for a folder that cannot be written.
    """
    values = {"host": host, "port": port, "state-dir": state_dir, "auth": auth}
    words = [f"--{name}={value}" for name, value in values.items() if value is not None]
    serve(read_options([*words, *(["--open"] if open else [])]))


def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C; raises LSPrismError. `options`: those of `add_options`."""
    try:
        with translate_import_errors("dashboard"):
            _run_server(options)
    except KeyboardInterrupt:
        sys.stderr.write(texts.CLOSED)


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python app.py", description=texts.DESCRIPTION)
    add_options(parser)
    return parser.parse_args(words)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help=texts.HOST)
    parser.add_argument("--port", type=int, help=texts.PORT.format(port=PORT))
    parser.add_argument("--state-dir", metavar="FOLDER", help=texts.STATE_DIR)
    parser.add_argument("--home", dest="state_dir", help=argparse.SUPPRESS)  # the earlier name
    parser.add_argument("--auth", metavar="FILE|env", help=texts.AUTH.format(variable=AUTH))
    parser.add_argument("--open", action="store_true", help=texts.OPEN)


def _run_server(options: argparse.Namespace) -> None:
    from lsprism.ui.security import is_any, is_loopback, normalize_host

    auth, host = read_auth(options.auth), normalize_host(options.host)
    if not is_loopback(host) and auth is None:
        raise SpecError(texts.AUTH_REQUIRED.format(host=options.host), REMEDY)
    port = find_free_port(host, options.port)
    home = prepare_home(options.state_dir)
    prepare_environment(home)
    from lsprism.ui.dashboard import launch  # the environment must be set before gradio is imported

    named = f"[{host}]" if ":" in host else host  # as in a URL; gradio expects it so too
    address = f"http://{'localhost' if is_any(host) else named}:{port}"
    sys.stderr.write(texts.OPENING.format(address=address))
    launch(home, named, port, auth=auth, browser=options.open)


def prepare_home(folder: str | None) -> Path:
    """Create the state folder if it is missing; DiskError if it is not writable."""
    from lsprism.runs import RunStore

    home = RunStore(folder).home
    try:
        (home / "page").mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "page" / "probe").write_text("")
        (home / "page" / "probe").unlink()
    except OSError as error:
        reason = error.strerror or error
        raise DiskError(*fill_names(texts.NOT_WRITABLE, folder=home, reason=reason)) from error
    return home


def prepare_environment(home: Path) -> None:
    """No analytics, no telemetry; uploads and served files stay in the state folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(home / "page")
    os.environ["LSPRISM_STATE"] = str(home)  # for the runs started from here
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def read_auth(where: str | None) -> tuple[str, str] | None:
    """Name and password from a file, or from the environment for 'env'; never from the arguments."""
    if not where:
        return None
    if where == "env":
        content = os.environ.get(AUTH, "")
        if not content:
            raise SpecError(texts.AUTH_NOT_SET.format(variable=AUTH), REMEDY)
    else:
        try:
            content = expand(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or texts.NOT_TEXT
            raise SpecError(texts.AUTH_UNREADABLE.format(file=where, reason=reason), REMEDY) from None
    name, colon, password = content.strip().partition(":")
    if not (name and colon and password):
        raise SpecError(texts.AUTH_MALFORMED, REMEDY)
    return name, password


def find_free_port(host: str, asked: int | None) -> int:
    """The requested port, or the first free one."""
    for port in [asked] if asked is not None else range(PORT, PORT + PORTS):
        if _is_free(host, port) and _is_free("127.0.0.1", port):  # gradio needs this one for any host
            return port
    if asked is None:
        raise RequestError(*fill_names(texts.PORTS_IN_USE, first=PORT, last=PORT + PORTS - 1))
    raise RequestError(*fill_names(texts.PORT_IN_USE, port=asked))


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as the server will
            probe.bind((host, port))
    except (OSError, UnicodeError, TypeError, OverflowError) as error:  # the middle two: not a host name
        elsewhere = getattr(error, "errno", None) in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        if elsewhere or isinstance(error, socket.gaierror | UnicodeError | TypeError):
            raise SpecError(*fill_names(texts.NOT_OUR_HOST, host=host)) from None
        return False
    return True
