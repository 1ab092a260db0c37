"""Uploads a finished folder to the Hugging Face Hub, as a private repository by default.

No token is passed, read or stored here; huggingface_hub finds the user's own.
"""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from lsprism.artifact.manifest import MANIFEST, verify
from lsprism.artifact.sidecar_files import read_license
from lsprism.errors import TargetError, WorkError


def check_repo(repo_id: str, folder: Path, base_model: str = "") -> None:
    """Raise TargetError, before any work, for a name that is invalid or not allowed by the license in `folder`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise TargetError(
            f"{repo_id!r} is not a valid repository name.", "A name looks like 'user/Model-0.5'."
        ) from None
    license_info = read_license(folder, base_model)
    if not license_info.llama:
        return
    named = f"The Llama {license_info.llama} Community License"
    if not repo_id.rpartition("/")[2].startswith("Llama"):
        raise TargetError(
            f"{named} requires the name of a derived model to start with 'Llama'; {repo_id!r} does not.",
            f"Choose a name such as '{_add_llama_prefix(repo_id)}'.",
        )
    if not any(folder.glob("LICENSE*")):
        raise TargetError(
            f"{named} requires a copy of the license with the model; {folder} has no LICENSE.",
            "Copy the LICENSE of the base model into that folder.",
        )


def push_to_hub(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """Upload a folder as a model repository and return its URL. Raises TargetError, DamagedError or WorkError.

    An existing repository is reused, but a public one only with `public`.
    """
    check_repo(repo_id, folder)
    if (folder / MANIFEST).is_file():
        verify(folder)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and api.model_info(url.repo_id).private is False:
            raise TargetError(
                f"{url.repo_id!r} is a public repository, but a private upload was requested.",
                "Choose another name, or allow a public upload with --public.",
            )
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload by LS-PRISM")
    except (OSError, HTTPError, RuntimeError, ValueError) as error:  # the last two: interrupted uploads
        raise _translate_error(error, repo_id, folder) from error
    return str(url)


def _translate_error(error: Exception, repo_id: str, folder: Path) -> WorkError:
    """One sentence with the next step. The error's own text is left out: it may contain a signed URL."""
    again = f"The model is complete in {folder}; then run: hf upload {repo_id} {folder}"
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return WorkError(
            "Not authenticated on the Hub: no token, or an invalid one.",
            f"Run 'hf auth login' or set HF_TOKEN to a token with write access. {again}",
        )
    if status == 403:
        return WorkError(
            f"No write access to {repo_id!r}: it belongs to another account, is gated, or the token is read-only.",
            f"Use a token with write access, or another repository name. {again}",
        )
    if isinstance(error, OfflineModeIsEnabled):
        return WorkError("Offline mode (HF_HUB_OFFLINE) is on.", f"Unset HF_HUB_OFFLINE. {again}")
    if status:
        return WorkError(f"The Hub refused {repo_id!r} with HTTP status {status}.", f"Try again later. {again}")
    reason = getattr(cause, "strerror", None) or type(cause).__name__
    return WorkError(f"Upload to {repo_id!r} failed: {reason}.", f"Check the network. {again}")


def _add_llama_prefix(repo_id: str) -> str:
    owner, slash, name = repo_id.rpartition("/")
    return f"{owner}{slash}Llama-{name}"
