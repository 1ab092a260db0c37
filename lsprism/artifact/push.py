"""A finished folder goes to the Hugging Face Hub: private unless told otherwise.

No token is passed, read or kept here; the hub's own library finds the user's.
"""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from lsprism.artifact.companions import licence_of
from lsprism.artifact.manifest import MANIFEST, verify
from lsprism.errors import TargetError, WorkError


def check_repo(repo_id: str, folder: Path, base_model: str = "") -> None:
    """Refuse, before any work, a repository that cannot take a model made of that in `folder`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise TargetError(
            f"{repo_id!r} is not a valid name of a repository.", "A name looks like 'user/Model-0.5'."
        ) from None
    licence = licence_of(folder, base_model)
    if not licence.llama:
        return
    named = f"The Llama {licence.llama} Community License"
    if not repo_id.rpartition("/")[2].startswith("Llama"):
        raise TargetError(
            f"{named} asks that the name of a derived model begins with 'Llama'; {repo_id!r} does not.",
            f"Choose a name such as '{_named_llama(repo_id)}'.",
        )
    if not any(folder.glob("LICENSE*")):
        raise TargetError(
            f"{named} asks for a copy of it beside the model; {folder} holds no LICENSE.",
            "Put the LICENSE of the base model into that folder.",
        )


def push_to_hub(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """Upload a folder as a model repository and return its address; every refusal is one sentence.

    A repository that exists already is used, but not a public one unless `public`: what is there cannot be hidden.
    """
    check_repo(repo_id, folder)
    if (folder / MANIFEST).is_file():
        verify(folder)
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and api.model_info(url.repo_id).private is False:
            raise TargetError(
                f"{url.repo_id!r} is a public repository, and the model was to be private.",
                "Choose another name, or say that it may be public.",
            )
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload by LS-PRISM")
    except (OSError, HTTPError, RuntimeError, ValueError) as error:  # the last two: uploads that broke off
        raise _explain(error, repo_id, folder) from error
    return str(url)


def _explain(error: Exception, repo_id: str, folder: Path) -> WorkError:
    """What to do about it. The error's own text is left out: it may hold a signed address."""
    again = f"The model is whole in {folder}; once that is mended, 'hf upload {repo_id} {folder}' sends it."
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return WorkError(
            "The hub does not know this account: there is no token, or it is not valid.",
            f"Run 'hf auth login' or set HF_TOKEN to a token with write access. {again}",
        )
    if status == 403:
        return WorkError(
            f"This account may not write to {repo_id!r}: it is another's, gated, or the token is read-only.",
            f"Use a token with write access, or a name of your own. {again}",
        )
    if isinstance(error, OfflineModeIsEnabled):
        return WorkError("Offline mode (HF_HUB_OFFLINE) forbids the network.", f"Unset HF_HUB_OFFLINE. {again}")
    if status:
        return WorkError(f"The hub refused {repo_id!r} with HTTP status {status}.", f"Try again later. {again}")
    reason = getattr(cause, "strerror", None) or type(cause).__name__
    return WorkError(f"The upload to {repo_id!r} broke off: {reason}.", f"Check the network. {again}")


def _named_llama(repo_id: str) -> str:
    owner, slash, name = repo_id.rpartition("/")
    return f"{owner}{slash}Llama-{name}"
