"""The format: its number, the names of its files, and the checksums that tell a whole artifact from an altered one."""

import hashlib
import json
import os
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from lsprism.errors import DamagedError
from lsprism.json_files import Shape, first_fault, read_known, read_object
from lsprism.reports import CompressionReport

FORMAT = 1
NOTES = "lsprism"  # folder inside the artifact for everything that is ours
MANIFEST, RECIPE, PLAN, REPORT, ENVIRONMENT = (
    f"{NOTES}/{name}.json" for name in ("manifest", "recipe", "plan", "report", "environment")
)


class FileEntry(BaseModel):
    bytes: int
    sha256: str


class RecipeShape(Shape):
    """What others ask a recipe for; the settings are all its own."""

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


REMEDY = "Copy the artifact again from where it was whole, or compress the model again."


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path) -> Manifest:
    """The manifest of all files below `folder` as they are now."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = {p.relative_to(folder).as_posix(): FileEntry(bytes=p.stat().st_size, sha256=sha256_of(p)) for p in paths}
    entries.pop(MANIFEST, None)
    return Manifest(format=FORMAT, files=entries)


def check_format(number: object, where: Path) -> None:
    """Refuse what a newer version wrote."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DamagedError(f"{where}: {number!r} is not a format number.", "Compress the model again.")
    if number > FORMAT:
        raise DamagedError(
            f"{where}: format {number} is newer than the {FORMAT} that this version reads.", "Update LS-PRISM."
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; one that is absent, unreadable, newer or points outside is a DamagedError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{path} is missing.", REMEDY)
    content = read_object(path, error=DamagedError, hint=REMEDY)
    check_format(content.get("format"), path)  # first: a newer one may look different altogether
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"{path} is missing or not readable ({type(error).__name__}).", REMEDY) from None
    for name in manifest.files:
        if not _stays_inside(name):
            raise DamagedError(f"{path} names {name!r}, which is no file of the artifact.", REMEDY)
    return manifest


def recipe_of(folder: Path) -> dict:
    """How the artifact in `folder` was made; empty for any other folder, and where the recipe cannot be read."""
    return read_known(folder / RECIPE, RecipeShape)


def read_report(folder: Path) -> CompressionReport:
    """What came of the compression that wrote the artifact in `folder`; DamagedError where it cannot be read."""
    path = folder / REPORT
    try:
        return CompressionReport.model_validate(read_object(path, error=DamagedError, hint=REMEDY))
    except ValidationError as error:
        raise DamagedError(f"{path}: {first_fault(error)}.", REMEDY) from None


def verify(folder: Path) -> Manifest:
    """Compare every file with the manifest: a missing, shortened or altered one is a DamagedError that names it.

    Files that the manifest does not name do no harm and are left alone.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not os.path.isfile(path):
            raise DamagedError(f"{path} is missing.", REMEDY)
        if path.stat().st_size != entry.bytes:
            raise DamagedError(f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}.", REMEDY)
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}.", REMEDY) from None
        if digest != entry.sha256:
            raise DamagedError(f"{path} was altered: its checksum differs from the manifest's.", REMEDY)
    return manifest


def _stays_inside(name: str) -> bool:
    """A manifest may come from anywhere: no absolute path, no drive, no way up, on no system."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def write_json(path: Path, value: BaseModel | dict) -> None:
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
