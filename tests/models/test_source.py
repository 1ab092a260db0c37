"""Every way to name a model resolves without a needless look at the network, or is refused in one plain sentence."""

import errno
import json
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

from lsprism.errors import SourceError
from lsprism.models.source import is_artifact, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def configure(folder: Path, **changes) -> Path:
    """Change config.json; None drops the entry."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def refused(model_id, *args, **kwargs) -> SourceError:
    """The refusal: one sentence that ends as one, and a next step."""
    with pytest.raises(SourceError) as caught:
        resolve(str(model_id), *args, **kwargs)
    error = caught.value
    assert error.message.endswith(".") and "\n" not in error.message and error.hint and error.exit_code == 2
    return error


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api/models/org/tiny?Signature=secret")
    return kind("Error for url https://x?Signature=secret", response=httpx2.Response(status, request=request))


class FakeHub:
    """Stands for snapshot_download: what the cache holds, what the network answers, what was asked of both."""

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


# Folders


def test_a_folder_resolves_to_itself(folder):
    source = resolve(str(folder))
    assert (source.kind, source.folder, source.base_model) == ("folder", folder, "model")
    assert source.model_id == str(folder) and source.revision == "" and not source.config_only


def test_a_relative_path_becomes_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve(".").folder == folder and resolve(".").base_model == "model"
    monkeypatch.chdir(folder.parent)
    assert resolve("model").folder == folder


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/model").folder == folder


def test_our_format_is_an_artifact(folder):
    assert not is_artifact(folder)
    configure(folder, quantization_config={"quant_method": "ls_prism"})
    assert is_artifact(folder) and resolve(str(folder)).kind == "artifact"


def test_another_quantisation_or_a_broken_folder_is_no_artifact(folder, tmp_path):
    assert not is_artifact(configure(folder, quantization_config={"quant_method": "gptq"}))
    (folder / "config.json").write_text("{")
    assert not is_artifact(folder) and not is_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~nowhere", "a/b/c", "nowhere.gguf"])
def test_a_path_that_does_not_exist(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub for a path"))
    assert "does not exist" in refused(name).message


def test_a_file_that_is_no_gguf(folder):
    assert "no .gguf" in refused(folder / "model.safetensors").message


def test_a_revision_of_something_local(folder):
    assert "no revision 'v1'" in refused(folder, "v1").message
    assert "no revision 'v1'" in refused("demo", "v1").message


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder).message
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter" in refused(folder).message


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_broken_config(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "JSON" in refused(folder).message


def test_weights_only_as_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pytorch_model.bin" in error.message and "safetensors" in error.hint


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refused(folder).message
    assert resolve(str(folder), need_weights=False).config_only


def test_a_shard_that_the_index_names_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks the weights model-00002-of-00002.safetensors" in refused(folder).message
    shutil.copy(folder / shards["a"], folder / shards["b"])
    assert not resolve(str(folder)).config_only


def test_no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "no tokenizer" in refused(folder).message
    assert resolve(str(folder), need_weights=False).folder == folder


# What is no decoder


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"])
def test_an_encoder(folder, architecture):
    error = refused(configure(folder, model_type="bert", architectures=[architecture]))
    assert architecture in error.message and "decoder-only" in error.hint


def test_a_type_without_a_causal_class(folder):
    assert "vit" in refused(configure(folder, model_type="vit", architectures=None)).message


def test_an_encoder_decoder(folder):
    changes = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    assert "encoder-decoder" in refused(configure(folder, **changes)).message


@pytest.mark.parametrize("kind", ["llamma", None])
def test_an_unknown_type(folder, kind):
    error = refused(configure(folder, model_type=kind))
    assert repr(kind) in error.message and "transformers" in error.message


def test_remote_code_is_never_run(folder):
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"}
    assert "never run" in refused(configure(folder, model_type="own", auto_map=auto_map)).message
    # A type that transformers knows needs none of it.
    assert resolve(str(configure(folder, model_type="llama"))).kind == "folder"


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gpt2", "GPT2LMHeadModel"), ("qwen3", "Qwen3ForCausalLM"), ("gemma3", "Gemma3ForConditionalGeneration")],
)
def test_decoders_of_every_naming_pass(folder, kind, architecture):
    assert resolve(str(configure(folder, model_type=kind, architectures=[architecture]))).kind == "folder"


# The hub


def test_a_hub_model_is_fetched_with_its_commit(hub):
    source = resolve("org/tiny", "v1")
    assert (source.kind, source.base_model, source.revision) == ("hub", "org/tiny", COMMIT)
    asked = hub.network[0]
    assert asked["repo_id"] == "org/tiny" and asked["revision"] == "v1"
    assert "*.safetensors" in asked["allow_patterns"] and not any("bin" in p for p in asked["allow_patterns"])
    assert "token" not in asked


def test_config_only_leaves_the_weights_there(hub):
    (hub.remote / "model.safetensors").unlink()
    assert resolve("org/tiny", need_weights=False).config_only
    assert not any("safetensors" in pattern for asked in hub.asked for pattern in asked["allow_patterns"])


def test_a_whole_cache_needs_no_network(hub):
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
    """The real library against a port that nobody listens on."""
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
def test_no_valid_hub_id(hub, name):
    assert "hub id" in refused(name).message
    assert hub.asked == []


@pytest.mark.parametrize(
    ("answer", "says", "step"),
    [
        (http_error(GatedRepoError, 403), "gated", "https://huggingface.co/org/tiny, then run 'hf auth login'"),
        (http_error(RepositoryNotFoundError, 401), "nor a model on the hub", "HF_TOKEN"),
        (http_error(RevisionNotFoundError, 404), "no revision 'v1'", "commits"),
        (http_error(HfHubHTTPError, 500), "HTTP status 500", "again"),
        (LocalEntryNotFoundError("no connection"), "not wholly in the local cache", "network"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full", "HF_HOME"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied", "again"),
        (httpx2.ReadTimeout("slow"), "ReadTimeout", "again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses(hub, answer, says, step):
    hub.remote = answer
    error = refused("org/tiny", "v1")
    assert "org/tiny" in error.message and says in error.message and step in error.hint
    assert "secret" not in str(error)


def test_a_server_error_behind_an_empty_cache_is_named(hub):
    error = LocalEntryNotFoundError("see above")
    error.__cause__ = http_error(HfHubHTTPError, 503)
    hub.remote = error
    assert "HTTP status 503" in refused("org/tiny").message


def test_a_repository_of_pickles_is_refused_by_what_it_lists(hub, monkeypatch):
    (hub.remote / "model.safetensors").unlink()
    listed = [huggingface_hub.RepoFile(path=name, size=1, oid="0") for name in ("config.json", "pytorch_model.bin")]
    monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", lambda repo_id, revision: listed)
    assert "pickle (pytorch_model.bin)" in refused("org/tiny").message


def test_a_repository_of_gguf_files_says_what_to_do(hub, monkeypatch):
    (hub.remote / "model.safetensors").unlink()
    listed = [huggingface_hub.RepoFile(path="tiny.Q4_K_M.gguf", size=1, oid="0")]
    monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", lambda repo_id, revision: listed)
    assert ".gguf file" in refused("org/tiny").hint
