"""A target folder in the making: filled beside the target as OUT.part, then moved into place by one rename.

While it is filled it holds finished shards and one checkpoint, `stream.safetensors`: the hidden states that go into the
next block, with the notes on the finished ones. A kill at any moment leaves a checkpoint that is whole.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lsprism.artifact.manifest import MANIFEST, NOTES, RECIPE, REPORT, describe, write_json
from lsprism.artifact.shards import disk_errors, write_shard
from lsprism.errors import TargetError
from lsprism.reports import CompressionReport, LayerReport

STREAM, LOCK = "stream.safetensors", ".lock"


@dataclass(frozen=True)
class Checkpoint:
    next_block: int
    hidden: list[Tensor]  # by batch
    layers: list[LayerReport]  # of the finished blocks
    seconds: float  # worked so far


@dataclass(frozen=True)
class Staging:
    target: Path
    folder: Path

    def read_checkpoint(self) -> Checkpoint | None:
        """The last one, or None where there is none or it cannot be read: then the work starts at block 0."""
        try:
            with safe_open(self.folder / STREAM, framework="pt") as opened:
                notes = opened.metadata()
                hidden = [opened.get_tensor(str(n)).clone() for n in range(len(opened.keys()))]
        except (OSError, SafetensorError):
            return None
        layers = [LayerReport.model_validate(entry) for entry in json.loads(notes["layers"])]
        return Checkpoint(int(notes["next_block"]), hidden, layers, float(notes["seconds"]))

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        notes = {
            "next_block": str(checkpoint.next_block),
            "layers": json.dumps([layer.model_dump() for layer in checkpoint.layers]),
            "seconds": str(checkpoint.seconds),
        }
        write_shard(self.folder / STREAM, {str(n): part for n, part in enumerate(checkpoint.hidden)}, notes)

    def publish(self) -> None:
        """Drop what was only for the making, write the manifest, and rename the folder to its target."""
        with disk_errors(self.target):
            for name in (STREAM, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            write_json(self.folder / MANIFEST, describe(self.folder))
            if self.target.exists():  # an artifact of ours, to be replaced: it stays whole until the new one is
                old = self.target.with_name(self.target.name + ".old")
                os.replace(self.target, old)
                os.replace(self.folder, self.target)
                shutil.rmtree(old)
            else:
                os.replace(self.folder, self.target)


def finished_report(target: Path, recipe: dict) -> CompressionReport | None:
    """The report of an artifact that is complete and was made by this very recipe; else None."""
    try:
        made = json.loads((target / RECIPE).read_text(encoding="utf-8"))
        report = CompressionReport.model_validate_json((target / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if made == recipe and (target / MANIFEST).is_file() else None


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists, unless it is an artifact of ours and `force` says to replace it."""
    if not target.exists() and not target.is_symlink():
        return
    if not (target / MANIFEST).is_file():
        raise TargetError(f"{target} exists and is not an artifact of LS-PRISM.", "Choose another --save-path.")
    if not force:
        raise TargetError(
            f"{target} already holds an artifact.", "Choose another --save-path, or --force to replace it."
        )


@contextmanager
def staging(target: Path, recipe: dict, *, resume: bool, force: bool) -> Iterator[Staging]:
    """Open OUT.part for one recipe, alone. It stays when the work ends early, so that --resume can go on."""
    check_target(target, force=force)
    folder = target.with_name(target.name + ".part")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TargetError(f"Another run is writing {target}.", "Wait for it, or choose another --save-path.") from None
    try:
        _settle(folder, recipe, resume=resume, force=force)
        yield Staging(target, folder)
    finally:
        lock.release()


def _settle(folder: Path, recipe: dict, *, resume: bool, force: bool) -> None:
    """Make the folder fit the recipe: fresh, or left by an earlier run of the very same recipe."""
    path = folder / RECIPE
    if path.is_file() and not force:
        if not resume:
            raise TargetError(
                f"{folder} holds an unfinished run.", "Give --resume to go on with it, or --force to start anew."
            )
        if changed := _differences(json.loads(path.read_text(encoding="utf-8")), recipe):
            raise TargetError(
                f"{folder} was begun with other settings ({', '.join(changed)}).",
                "Give those again to resume, or --force to start anew.",
            )
        return
    if not path.is_file() and {entry.name for entry in folder.iterdir()} - {LOCK, NOTES}:
        raise TargetError(
            f"{folder} exists and is not an unfinished run.", "Move it away, or choose another --save-path."
        )
    with disk_errors(folder):
        for entry in folder.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        half = path.with_suffix(".tmp")
        write_json(half, recipe)
        os.replace(half, path)


def _differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    """Names of the settings that differ."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found
