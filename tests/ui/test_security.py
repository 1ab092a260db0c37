"""Who may talk to the dashboard."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lsprism.ui.security import Guard, extract_host, is_any, is_loopback, list_hosts


def client(host: str = "127.0.0.1") -> TestClient:
    guard = Middleware(Guard, hosts=list_hosts(host))
    routes = [Route("/", lambda request: PlainTextResponse("page"), methods=["GET", "POST"])]
    return TestClient(Starlette(routes=routes, middleware=[guard]))


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "LOCALHOST", "[::1]:7860"])
def test_this_machine_is_known(host):
    assert client().get("/", headers={"host": host}).text == "page"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
def test_a_foreign_host_is_refused(host):
    assert client().get("/", headers={"host": host}).status_code == 400


def test_the_chosen_host_is_known_and_only_that():
    assert client("192.168.1.5").get("/", headers={"host": "192.168.1.5:80"}).status_code == 200
    assert client("192.168.1.5").get("/", headers={"host": "192.168.1.6"}).status_code == 400


def test_a_page_of_another_site_may_not_post():
    home, foreign = {"host": "localhost:1"}, "https://evil.example"
    assert client().post("/", headers={**home, "origin": foreign}).status_code == 403
    assert client().post("/", headers={**home, "origin": "null"}).status_code == 403
    assert client().post("/", headers={**home, "origin": "http://localhost:1"}).status_code == 200


def test_listening_everywhere_knows_the_names_of_this_machine():
    import socket

    assert {"127.0.0.1", "localhost", socket.gethostname().lower()} <= list_hosts("0.0.0.0")
    assert "evil.example" not in list_hosts("0.0.0.0")


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "127.1.2.3"]))
    assert not any(map(is_loopback, ["0.0.0.0", "192.168.1.5", "::"]))


def test_names_lose_their_port():
    assert [extract_host(h) for h in ("a:1", "a", "[::1]:1", "::1")] == ["a", "a", "::1", "::1"]


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "LOCALHOST"])
def test_loopback_in_every_spelling(host):
    assert is_loopback(host)
    assert client(host).get("/", headers={"host": "[::1]:7860"}).status_code == 200


@pytest.mark.parametrize("host", ["127.evil.example", "::ffff:10.0.0.1", "[::]", "fe80::1%lo", "1::", ""])
def test_what_only_looks_like_loopback(host):
    assert not is_loopback(host)


def test_an_address_of_version_6_is_known_in_every_spelling():
    there = client("[2001:DB8::0005]")
    for host in ("[2001:db8::5]:7860", "[2001:db8:0:0::5]", "2001:db8::5"):
        assert there.get("/", headers={"host": host}).status_code == 200
    assert there.get("/", headers={"host": "[2001:db8::6]"}).status_code == 400
    good = {"host": "[2001:db8::5]:80", "origin": "http://[2001:db8::5]:80"}
    assert there.post("/", headers=good).status_code == 200
    assert there.post("/", headers={**good, "origin": "http://[2001:db8::6]"}).status_code == 403
    assert there.post("/", headers={**good, "origin": "http://[2001:db8::5"}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "0:0:0:0:0:0:0:0", ""])
def test_all_spellings_of_everywhere(host):
    assert is_any(host)
    assert "::1" in list_hosts(host)
