"""Uploads are private by default, every error has a next step, and no token is read."""

from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

import lsprism
from lsprism.artifact import push as module
from lsprism.artifact.push import check_repo, push_to_hub
from lsprism.errors import DamagedError, TargetError, WorkError

SECRET = "hf_secretsecretsecret"


class FakeHub:
    """Fake of HfApi that records calls; repositories in `public` already exist."""

    def __init__(self) -> None:
        self.calls, self.public, self.error = [], set(), None

    def __call__(self, **kwargs) -> "FakeHub":
        self.calls.append(("HfApi", kwargs))
        return self

    def create_repo(self, repo_id: str, **kwargs):
        self.calls.append(("create_repo", {"repo_id": repo_id, **kwargs}))
        if self.error:
            raise self.error
        if not kwargs["private"]:
            self.public.add(repo_id)
        return Address(f"https://huggingface.co/{repo_id}", repo_id)

    def model_info(self, repo_id: str):
        return SimpleNamespace(private=repo_id not in self.public)

    def upload_folder(self, **kwargs) -> None:
        self.calls.append(("upload_folder", kwargs))

    def asked(self, name: str) -> list[dict]:
        return [kwargs for called, kwargs in self.calls if called == name]


class Address(str):
    repo_id: str

    def __new__(cls, url: str, repo_id: str) -> "Address":
        made = super().__new__(cls, url)
        made.repo_id = repo_id
        return made


@pytest.fixture
def hub(monkeypatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(module, "HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    return fake


def http_error(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    request = httpx2.Request("POST", f"https://huggingface.co/api/repos/create?Signature={SECRET}")
    return kind(f"Error for url {request.url}", response=httpx2.Response(status, request=request))


def test_uploads_are_private_by_default(hub, tiny_folder):
    assert push_to_hub(tiny_folder, "me/tiny-0.5") == "https://huggingface.co/me/tiny-0.5"
    assert hub.asked("create_repo") == [{"repo_id": "me/tiny-0.5", "private": True, "exist_ok": True}]
    (upload,) = hub.asked("upload_folder")
    assert upload["repo_id"] == "me/tiny-0.5" and upload["folder_path"] == tiny_folder
    push_to_hub(tiny_folder, "me/open", public=True)
    assert hub.asked("create_repo")[1]["private"] is False


def test_the_token_is_left_to_the_library(hub, tiny_folder, caplog):
    caplog.set_level("DEBUG")
    push_to_hub(tiny_folder, "me/tiny")
    assert not any("token" in kwargs for _, kwargs in hub.calls)
    assert SECRET not in repr(hub.calls) and SECRET not in caplog.text


def test_a_private_upload_to_a_public_repository_is_an_error(hub, tiny_folder):
    hub.public.add("me/open")
    with pytest.raises(TargetError, match="public repository"):
        push_to_hub(tiny_folder, "me/open")
    assert not hub.asked("upload_folder")
    push_to_hub(tiny_folder, "me/open", public=True)
    assert hub.asked("upload_folder")


@pytest.mark.parametrize("name", ["", "a/b/c", "me/ti ny", "me/-tiny", "me/tiny.git", "https://x/y", "../x"])
def test_an_invalid_name_is_an_error(hub, tiny_folder, name):
    with pytest.raises(TargetError, match="not a valid repository name") as caught:
        push_to_hub(tiny_folder, name)
    assert caught.value.hint and not hub.calls


@pytest.mark.parametrize(
    "error, message, step",
    [
        (LocalTokenNotFoundError(SECRET), "no token", "hf auth login"),
        (http_error(401), "no token", "hf auth login"),
        (http_error(403), "No write access", "write access"),
        (http_error(403, GatedRepoError), "gated", "write access"),
        (http_error(500), "HTTP status 500", "Try again"),
        (OfflineModeIsEnabled(SECRET), "Offline mode", "Unset HF_HUB_OFFLINE"),
        (httpx2.ConnectError(SECRET), "ConnectError", "network"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out", "network"),
        (ValueError(f"LFS batch API returned errors: {SECRET}"), "failed", "network"),
    ],
)
def test_errors_of_the_hub_have_a_next_step(hub, tiny_folder, error, message, step):
    hub.error = error
    with pytest.raises(WorkError) as caught:
        push_to_hub(tiny_folder, "me/tiny")
    said = caught.value
    assert message in said.message and step in said.hint and said.message.endswith(".") and "\n" not in str(said)
    assert f"hf upload me/tiny {tiny_folder}" in said.hint
    assert SECRET not in str(said)


def test_a_failed_upload_reports_the_cause(hub, tiny_folder):
    hub.error = RuntimeError("Error while uploading")
    hub.error.__cause__ = http_error(403)
    with pytest.raises(WorkError, match="No write access"):
        push_to_hub(tiny_folder, "me/tiny")


# Llama


@pytest.fixture
def llama(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    (folder / "LICENSE").write_text("agreement")
    return folder


def test_the_name_of_a_llama_must_start_with_llama(hub, llama):
    with pytest.raises(TargetError, match="start with 'Llama'") as caught:
        push_to_hub(llama, "me/small-3.1")
    assert "me/Llama-small-3.1" in caught.value.hint and not hub.calls
    push_to_hub(llama, "me/Llama-small-3.1")
    push_to_hub(llama, "Llama-3.1-small")
    assert len(hub.asked("upload_folder")) == 2


def test_a_llama_needs_its_license_file(hub, llama):
    (llama / "LICENSE").unlink()
    with pytest.raises(TargetError, match="a copy of the license") as caught:
        check_repo("me/Llama-x", llama)
    assert "LICENSE" in caught.value.hint


def test_other_models_may_have_any_name(llama):
    (llama / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    check_repo("me/anything", llama)
    with pytest.raises(TargetError):
        check_repo("me/anything", llama, "meta-llama/Llama-3.1-8B")


# With an export


def test_export_then_push(hub, tiny_folder, tmp_path):
    target = lsprism.export(str(tiny_folder), tmp_path / "dense", push_to_hub="me/tiny")
    assert hub.asked("create_repo")[0]["private"] is True
    assert hub.asked("upload_folder")[0]["folder_path"] == target == tmp_path / "dense"
    lsprism.export(str(tiny_folder), tmp_path / "open", push_to_hub="me/open", public=True)
    assert hub.asked("create_repo")[1]["private"] is False


def test_a_name_is_checked_before_the_work(hub, tiny_folder, tmp_path):
    with pytest.raises(TargetError):
        lsprism.export(str(tiny_folder), tmp_path / "dense", push_to_hub="a/b/c")
    assert not (tmp_path / "dense").exists() and not hub.calls


def test_a_damaged_artifact_is_not_uploaded(hub, tiny_folder, text_file, tmp_path):
    settings = {"method": "wanda", "calibration": {"source": str(text_file), "samples": 2, "length": 16}}
    lsprism.compress(str(tiny_folder), tmp_path / "out", **settings)
    push_to_hub(tmp_path / "out", "me/out")
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(DamagedError):
        push_to_hub(tmp_path / "out", "me/out")
    assert len(hub.asked("upload_folder")) == 1
