"""Models of the Hugging Face Hub: from the local cache if complete there, otherwise downloaded."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)

from lsprism.errors import SourceError
from lsprism.models.checks import find_missing_weights
from lsprism.models.tokenizer_files import has_vocabulary

# Config, tokenizer and chat template; model card and license, which are copied to artifacts.
WORDS = (
    "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
WEIGHTS = ("*.safetensors",)  # never pickle
# Copies of the weights for other programs (onnx/, original/, Mistral's consolidated.safetensors): all folders except
# additional_chat_templates/ and the lsprism/ of our artifacts, without which they cannot be verified.
COPIES = ("[!al]*/*", "a[!d]*/*", "ad[!d]*/*", "l[!s]*/*", "consolidated*")


def fetch(repo_id: str, revision: str = "", weights: bool = True) -> Path:
    """Return the snapshot folder, whose name is the commit. huggingface_hub finds the user's token itself.

    Raises SourceError, with the reason, if the model cannot be downloaded.
    """
    snapshot = partial(
        huggingface_hub.snapshot_download,
        repo_id,
        revision=revision or None,
        allow_patterns=[*WORDS, *(WEIGHTS if weights else ())],
        ignore_patterns=[*COPIES],
    )
    cached = None
    try:
        cached = _find_cached(snapshot, weights)
        if cached and has_vocabulary(cached):
            return cached
        # Not hf_hub_download: without a network it retries for 23 s, snapshot_download tries once.
        return Path(snapshot())
    except (OSError, HTTPError, XetDownloadError) as error:
        if cached:  # complete except for a tokenizer, which some models do not have
            return cached
        raise _translate_error(error, repo_id, revision) from error


def _find_cached(snapshot: Callable[..., str], weights: bool) -> Path | None:
    try:
        folder = Path(snapshot(local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    # A cache written by an older library does not record whether it is complete.
    whole = (folder / "config.json").is_file() and not (weights and find_missing_weights(folder))
    return folder if whole else None


def list_files(repo_id: str, folder: Path) -> list[str]:
    """Names of the repository's top-level files at the commit of `folder`, downloaded or not; needs no network."""
    try:
        tree = huggingface_hub.get_cached_repo_tree(repo_id, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        return [file.name for file in folder.iterdir()]
    return [file.path for file in tree if "/" not in file.path]


def _translate_error(error: Exception, repo_id: str, revision: str) -> SourceError:
    page = f"https://huggingface.co/{repo_id}"
    if isinstance(error, GatedRepoError):
        return SourceError(
            f"{repo_id!r} is gated, and this account has no access to it.",
            f"Accept the license on {page}, then run 'hf auth login' or set HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return SourceError(
            f"{repo_id!r} is neither a local folder nor a model on the Hub.",
            "Check the spelling; a private model needs 'hf auth login' or HF_TOKEN.",
        )
    if isinstance(error, RevisionNotFoundError):
        return SourceError(f"{repo_id!r} has no revision {revision!r}.", f"Choose one from {page}/commits/main.")
    if getattr(error, "errno", None) == errno.ENOSPC:
        return SourceError(
            f"The disk is full: {repo_id!r} cannot be stored in {huggingface_hub.constants.HF_HUB_CACHE}.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return _make_unreachable_error(error, repo_id)
    return SourceError(
        f"Download of {repo_id!r} failed: {_format_reason(error)}.", "Try again; the download will resume."
    )


def _make_unreachable_error(error: Exception, repo_id: str) -> SourceError:
    if huggingface_hub.is_offline_mode():
        return SourceError(
            f"{repo_id!r} is not completely in the local cache, and offline mode (HF_HUB_OFFLINE) is on.",
            "Unset HF_HUB_OFFLINE, or give a local folder or 'demo'.",
        )
    return SourceError(
        f"{repo_id!r} is not completely in the local cache, and the download failed: {_format_reason(error)}.",
        "Check the network and try again, or give a local folder or 'demo'.",
    )


def _format_reason(error: Exception) -> str:
    """The cause without its text, which may contain a signed URL."""
    cause = error.__cause__ or error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    strerror = getattr(cause, "strerror", None)
    return f"HTTP status {status}" if status else strerror or type(cause).__name__
