"""Hub models: from the cache without network access, or an error with one plain sentence."""

import errno
import shutil
import time
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from test_source import configure, refused

from lsprism.models.source import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/org/tiny?Signature=secret")
    return kind("Error for url https://x?Signature=secret", response=httpx2.Response(status, request=request))


class FakeHub:
    """Fake of snapshot_download: the content of the cache, the response of the network, and the recorded calls."""

    def __init__(self, cached: Path | None = None, remote: Path | Exception | None = None) -> None:
        self.cached, self.remote, self.asked = cached, remote, []

    def __call__(self, repo_id: str, **kwargs) -> str:
        self.asked.append({"repo_id": repo_id, **kwargs})
        answer = self.cached if kwargs.get("local_files_only") else self.remote
        if answer is None:
            raise LocalEntryNotFoundError("not in the cache")
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    @property
    def network(self) -> list[dict]:
        return [asked for asked in self.asked if not asked.get("local_files_only")]


@pytest.fixture
def hub(monkeypatch, tiny_folder, tmp_path) -> FakeHub:
    """An online hub whose snapshot is the tiny model and whose cache is empty."""
    snapshot = shutil.copytree(tiny_folder, tmp_path / COMMIT)
    fake = FakeHub(remote=snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return fake


def test_a_hub_model_is_fetched_with_its_commit(hub):
    source = resolve("org/tiny", "v1")
    assert (source.kind, source.base_model, source.revision) == ("hub", "org/tiny", COMMIT)
    asked = hub.network[0]
    assert asked["repo_id"] == "org/tiny" and asked["revision"] == "v1"
    assert "*.safetensors" in asked["allow_patterns"] and not any("bin" in p for p in asked["allow_patterns"])
    assert "token" not in asked


def test_config_only_does_not_download_weights(hub):
    (hub.remote / "model.safetensors").unlink()
    assert resolve("org/tiny", need_weights=False).config_only
    assert not any("safetensors" in pattern for asked in hub.asked for pattern in asked["allow_patterns"])


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)], ids=["none", "settings alone"])
def test_a_cache_without_its_tokenizer_is_completed(hub, tiny_folder, tmp_path, kept):
    hub.cached = shutil.copytree(tiny_folder, tmp_path / "cached" / COMMIT)
    for path in hub.cached.glob("tokenizer*"):
        if path.name not in kept:
            path.unlink()
    assert resolve("org/tiny").folder == hub.remote and len(hub.network) == 1
    hub.remote = LocalEntryNotFoundError("no network")
    if kept:
        assert resolve("org/tiny").folder == hub.cached  # some tokenizers need no vocabulary
    else:
        assert "has no tokenizer" in refused("org/tiny").message


def test_a_complete_cache_needs_no_network(hub):
    hub.cached, hub.remote = hub.remote, RuntimeError("touched the network")
    assert resolve("org/tiny").revision == COMMIT


def test_a_cache_without_weights_is_completed(hub, tmp_path):
    hub.cached = shutil.copytree(hub.remote, tmp_path / "partial")
    (hub.cached / "model.safetensors").unlink()
    assert resolve("org/tiny").folder == hub.remote and len(hub.network) == 1


def test_the_real_cache_is_read_offline_without_a_stall(tiny_folder, tmp_path, monkeypatch):
    home = tmp_path / "models--org--tiny"
    shutil.copytree(tiny_folder, home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    assert resolve("org/tiny").revision == COMMIT
    assert "HF_HUB_OFFLINE" in refused("org/other").message
    assert time.monotonic() - started < 3


def test_without_a_network_it_does_not_stall(tmp_path, monkeypatch):
    """The real library against a closed port."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    error = refused("org/tiny")
    assert "ConnectError" in error.message and "network" in error.hint
    assert refused("org/tiny", need_weights=False)
    assert time.monotonic() - started < 5


def test_an_artifact_on_the_hub_is_an_artifact(hub):
    configure(hub.remote, quantization_config={"quant_method": "ls_prism"})
    assert resolve("org/tiny").kind == "artifact"


@pytest.mark.parametrize("name", ["", "a b", "org/na--me", "https://huggingface.co", "x" * 5000])
def test_an_invalid_hub_id_is_an_error(hub, name):
    assert "Hub id" in refused(name).message
    assert hub.asked == []


@pytest.mark.parametrize(
    ("answer", "says", "step"),
    [
        (http_error(GatedRepoError, 403), "gated", "https://huggingface.co/org/tiny, then run 'hf auth login'"),
        (http_error(RepositoryNotFoundError, 401), "nor a model on the Hub", "HF_TOKEN"),
        (http_error(RevisionNotFoundError, 404), "no revision 'v1'", "commits"),
        (http_error(HfHubHTTPError, 500), "HTTP status 500", "again"),
        (LocalEntryNotFoundError("no connection"), "not completely in the local cache", "network"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full", "HF_HOME"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", "again"),
        (httpx2.ReadTimeout("slow"), "ReadTimeout", "again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_of_the_hub_have_a_next_step(hub, answer, says, step):
    hub.remote = answer
    error = refused("org/tiny", "v1")
    assert "org/tiny" in error.message and says in error.message and step in error.hint
    assert "secret" not in str(error)


def test_a_server_error_with_an_empty_cache_is_reported(hub):
    error = LocalEntryNotFoundError("see above")
    error.__cause__ = http_error(HfHubHTTPError, 503)
    hub.remote = error
    assert "HTTP status 503" in refused("org/tiny").message


def test_a_repository_of_pickles_is_recognized_by_its_file_list(hub, monkeypatch):
    (hub.remote / "model.safetensors").unlink()
    listed = [huggingface_hub.RepoFile(path=name, size=1, oid="0") for name in ("config.json", "pytorch_model.bin")]
    monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", lambda repo_id, revision: listed)
    assert "pickle format (pytorch_model.bin)" in refused("org/tiny").message


def test_a_repository_of_gguf_files_has_a_hint(hub, monkeypatch):
    (hub.remote / "model.safetensors").unlink()
    listed = [huggingface_hub.RepoFile(path="tiny.Q4_K_M.gguf", size=1, oid="0")]
    monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", lambda repo_id, revision: listed)
    assert ".gguf file" in refused("org/tiny").hint
