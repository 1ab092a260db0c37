"""Resolves what the user gave as a model to a checked local folder and its kind.

Tried in this order: `demo`; a folder (a plain model or an artifact); a .gguf file; a Hub id.
"""

import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lsprism.errors import SourceError
from lsprism.models import hub
from lsprism.models.checks import (
    check_config,
    check_documents,
    check_pointers,
    check_weights,
    find_missing_weights,
    read_config,
)
from lsprism.models.demo import HUB_ID, get_demo_folder
from lsprism.models.gguf import get_gguf_folder
from lsprism.models.other_formats import (
    QUANT_METHOD,
    check_dense,
    check_weight_format,
    get_quant_method,
    has_other_weights,
)
from lsprism.models.tokenizer_files import check_tokenizer
from lsprism.records.model_plan import ModelSource, SourceKind


def resolve(model_id: str, revision: str = "", need_weights: bool = True) -> ModelSource:
    """Find the model, download what is needed, and check that it is supported. Raises SourceError.

    With `need_weights` False, only config and tokenizer of a Hub model are downloaded.
    """
    path = os.path.expanduser(model_id)
    here = model_id == "demo" or os.path.exists(path) or _is_path(model_id)
    if revision and here:
        raise SourceError(f"{model_id!r} is local and has no revision {revision!r}.", "Leave the revision out.")
    if not here:
        return _from_hub(model_id, revision, need_weights)
    if model_id == "demo":
        folder, kind, base = get_demo_folder(), "demo", HUB_ID
    elif os.path.isdir(path):
        folder = Path(os.path.abspath(path))
        kind, base = "folder", folder.name
    else:
        file = _resolve_gguf_file(path)
        folder, kind, base = get_gguf_folder(file), "gguf", file.stem
    source = ModelSource(model_id=model_id, kind=kind, folder=folder, base_model=base)
    return _check_source(source, need_weights, [file.name for file in folder.iterdir()])


def _from_hub(model_id: str, revision: str, need_weights: bool) -> ModelSource:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise SourceError(
            f"{model_id!r} is neither a local file or folder nor a valid Hub id.",
            "A Hub id looks like 'HuggingFaceTB/SmolLM2-135M'; a path starts with './' or '/'.",
        ) from error
    folder = hub.fetch(model_id, revision, weights=need_weights)
    source = ModelSource(model_id=model_id, kind="hub", folder=folder, base_model=model_id, revision=folder.name)
    return _check_source(source, need_weights, hub.list_files(model_id, folder))


def _check_source(source: ModelSource, need_weights: bool, listed: list[str]) -> ModelSource:
    """`source` with its final kind; `listed`: all files of its folder or repository."""
    folder, name = source.folder, source.model_id
    config = read_config(folder)
    check_config(config, name)
    check_documents(folder)
    check_pointers(folder)
    check_dense(folder, name, config)
    missing = find_missing_weights(folder)
    if need_weights:
        check_weights(folder, name, listed)
        check_tokenizer(folder, name)
    elif missing and has_other_weights(listed):  # a config alone is enough for a plan, other weights are an error
        check_weight_format(name, listed, missing[0])
    kind: SourceKind = "artifact" if get_quant_method(config) == QUANT_METHOD else source.kind
    return source.model_copy(update={"kind": kind, "config_only": bool(missing)})


def _is_path(model_id: str) -> bool:
    if "://" in model_id:
        return False
    return model_id.startswith((".", "/", "~")) or model_id.endswith(".gguf") or model_id.count(os.sep) > 1


def _resolve_gguf_file(path: str) -> Path:
    if not os.path.exists(path):
        raise SourceError(f"{path!r} does not exist.", "Check the spelling, or give a Hub id like 'org/name'.")
    if not path.endswith(".gguf"):
        raise SourceError(f"{path!r} is a file, but not a .gguf file.", "Give the folder with the model's config.json.")
    return Path(os.path.abspath(path))  # links are not resolved: in the Hub cache only the link has the file's name
