"""The format: its version number, the names of its files, and the checksums by which damage is detected."""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from lsprism.artifact.recipe import Recipe
from lsprism.errors import DamagedError
from lsprism.json_files import Shape, find_first_fault, read_known, read_object
from lsprism.records.compression import CompressionReport

FORMAT = 1
NOTES = "lsprism"  # folder inside the artifact for all files of LS-PRISM
MANIFEST, RECIPE, PLAN, REPORT, ENVIRONMENT = (
    f"{NOTES}/{name}.json" for name in ("manifest", "recipe", "plan", "report", "environment")
)


class FileEntry(BaseModel):
    bytes: int
    sha256: str


class RecipeShape(Shape):
    """The entries of a recipe that are read; it holds all settings of the compression."""

    model_id: str
    base_model: str
    method: str
    sparsity: float
    lsprism: str
    revision: str = ""


class Manifest(BaseModel):
    """Every file of the artifact except the manifest itself."""

    model_config = ConfigDict(frozen=True)

    format: int
    files: dict[str, FileEntry]


REMEDY = "Copy the artifact again from an intact copy, or compress the model again."


def compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_manifest(folder: Path) -> Manifest:
    """Compute the manifest of all files in `folder`."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = {
        p.relative_to(folder).as_posix(): FileEntry(bytes=p.stat().st_size, sha256=compute_sha256(p)) for p in paths
    }
    entries.pop(MANIFEST, None)
    return Manifest(format=FORMAT, files=entries)


def check_format(number: object, where: Path) -> None:
    """Raise DamagedError for a format number that is invalid or newer than this version supports."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DamagedError(f"{where}: {number!r} is not a format number.", "Compress the model again.")
    if number > FORMAT:
        raise DamagedError(
            f"{where}: format {number} is newer than format {FORMAT}, which this version reads.", "Update LS-PRISM."
        )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an artifact. Raises DamagedError if it is missing, malformed, newer, or points outside."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{path} is missing.", REMEDY)
    content = read_object(path, error=DamagedError, hint=REMEDY)
    check_format(content.get("format"), path)  # first, because a newer format may have another structure
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"{path} is missing or not readable ({type(error).__name__}).", REMEDY) from None
    for name in manifest.files:
        if not _is_inside(name):
            raise DamagedError(f"{path} names {name!r}, which is not a file of the artifact.", REMEDY)
    return manifest


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe of the artifact in `folder`; None if there is none to read."""
    entries = read_known(folder / RECIPE, RecipeShape)
    return Recipe(entries) if entries else None


def read_report(folder: Path) -> CompressionReport:
    """The report of the compression that wrote the artifact in `folder`. Raises DamagedError if it cannot be read."""
    path = folder / REPORT
    try:
        return CompressionReport.model_validate(read_object(path, error=DamagedError, hint=REMEDY))
    except ValidationError as error:
        raise DamagedError(f"{path}: {find_first_fault(error)}.", REMEDY) from None


def verify(folder: Path) -> Manifest:
    """Compare every file with the manifest. Raises DamagedError naming the first missing, truncated or altered file.

    Files that the manifest does not name are ignored.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not os.path.isfile(path):
            raise DamagedError(f"{path} is missing.", REMEDY)
        if path.stat().st_size != entry.bytes:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}.", REMEDY)
        try:
            digest = compute_sha256(path)
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}.", REMEDY) from None
        if digest != entry.sha256:
            raise DamagedError(f"{path} was altered: its checksum does not match the manifest.", REMEDY)
    return manifest


def _is_inside(name: str) -> bool:
    """Manifests may be untrusted: refuse absolute paths, drives and parent folders, on every system."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def write_json(path: Path, value: BaseModel | dict) -> None:
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
