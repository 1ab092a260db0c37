"""Texts of `python app.py`: options, what it prints, and errors."""

from lsprism.ui.texts import Pair

DESCRIPTION = "Open the LS-PRISM dashboard."
HOST = "address to listen on (default 127.0.0.1: this machine only)"
PORT = "port (default: the first free one from {port} on)"
STATE_DIR = "folder for runs (default: the user's state folder)"
AUTH = "file with name:password, or env to read ${variable}"
OPEN = "open the page in the browser"
OPENING = "Opening LS-PRISM on {address} ... (Ctrl-C closes it; active runs continue)\n"
CLOSED = "\nDashboard closed. Active runs continue in the background.\n"
ERROR = "error {error}\n"

# Errors
AUTH_HINT = "Use --auth FILE, a file that holds 'name:password', or --auth env and set {variable}."
AUTH_REQUIRED = "--host {host} is open to other machines and requires --auth."
AUTH_NOT_SET = "--auth env: {variable} is not set."
AUTH_UNREADABLE = "--auth {file} cannot be read: {reason}."
AUTH_MALFORMED = "--auth: the value is not of the form 'name:password'."
NOT_TEXT = "not UTF-8 text"
NOT_WRITABLE: Pair = ("{folder} is not writable: {reason}.", "Use --state-dir FOLDER with a writable folder.")
PORTS_IN_USE: Pair = ("Ports {first} to {last} are all in use.", "Use --port N with a free port.")
PORT_IN_USE: Pair = ("Port {port} is in use or not allowed.", "Use another --port, or leave it out.")
NOT_OUR_HOST: Pair = ("--host {host} is not an address of this machine.", "Leave it out to listen locally only.")
