"""The folder of an unfinished run: filled next to the target as OUT.part, then moved into place by one rename.

It holds finished shards and one checkpoint, `stream.safetensors`: the input hidden states of the next block and the
reports of the finished ones. A kill at any time leaves a complete checkpoint.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lsprism.artifact.manifest import MANIFEST, NOTES, RECIPE, build_manifest, write_json
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.shards import translate_disk_errors, write_shard
from lsprism.artifact.target import check_overwrite, check_part, check_recipe, exclusive_lock, find_recipe_differences
from lsprism.json_files import parse
from lsprism.paths import get_sibling
from lsprism.records.compression import LayerReport

STREAM = "stream.safetensors"
REPLACING = "replacing"  # folder of complete shards that are about to replace finished ones


@dataclass(frozen=True)
class Checkpoint:
    next_block: int  # counts from 0
    hidden: list[Tensor]  # by batch
    layers: list[LayerReport]  # layers of the finished blocks
    seconds: float  # working time so far


@dataclass(frozen=True)
class Staging:
    target: Path
    folder: Path

    @property
    def begun(self) -> bool:
        """Whether an earlier run left a checkpoint, readable or not."""
        return (self.folder / STREAM).exists()

    def read_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None if there is none or it cannot be read."""
        try:
            with safe_open(self.folder / STREAM, framework="pt") as opened:
                notes = opened.metadata() or {}
                hidden = [opened.get_tensor(str(n)).clone() for n in range(len(opened.keys()))]
            layers = [LayerReport.model_validate(entry) for entry in parse(notes["layers"].encode())]
            return Checkpoint(int(notes["next_block"]), hidden, layers, float(notes["seconds"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        notes = {
            "next_block": str(checkpoint.next_block),
            "layers": json.dumps([layer.model_dump() for layer in checkpoint.layers]),
            "seconds": str(checkpoint.seconds),
        }
        write_shard(self.folder / STREAM, {str(n): part for n, part in enumerate(checkpoint.hidden)}, notes)

    def store_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, after a value in it has been computed."""
        with translate_disk_errors(self.folder):
            _write_recipe(self.folder, recipe)

    def start_replacing(self, shards: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
        """Write replacements for finished shards. Afterwards, either all of them are moved into place or none."""
        half = self.folder / "replacing.part"
        whole = self.folder / REPLACING
        with translate_disk_errors(self.folder):
            for left in (half, whole):
                shutil.rmtree(left, ignore_errors=True)
            half.mkdir()
            for name, tensors in shards:
                write_shard(half / name, tensors)
            os.replace(half, whole)

    @property
    def replacing(self) -> bool:
        """Whether complete replacements wait to be moved into place."""
        return (self.folder / REPLACING).is_dir()

    def remove_replacing(self) -> None:
        shutil.rmtree(self.folder / REPLACING, ignore_errors=True)

    def apply_replacing(self, checkpoint: Checkpoint) -> None:
        """Move the replacements into place, then write `checkpoint`, which records it."""
        with translate_disk_errors(self.folder):
            for path in (self.folder / REPLACING).iterdir():
                os.replace(path, self.folder / path.name)
            self.write_checkpoint(checkpoint)
            (self.folder / REPLACING).rmdir()

    def publish(self) -> None:
        """Write the manifest, rename the folder to its target, and delete temporary files.

        The checkpoint is deleted last: if a rename fails, nothing is lost, and an artifact that was to be replaced is
        restored. Failures after the renames are ignored: the artifact is complete.
        """
        place = get_sibling(self.target)
        replaced = get_sibling(self.target, ".replaced")
        with translate_disk_errors(self.target):
            manifest = build_manifest(self.folder)
            manifest.files.pop(STREAM, None)
            write_json(self.folder / MANIFEST, manifest)
            replaces = place.exists()
            if replaces:
                shutil.rmtree(replaced, ignore_errors=True)  # left by a kill between the two renames
                os.replace(place, replaced)
            try:
                os.replace(self.folder, place)
            except OSError:
                if replaces:
                    os.replace(replaced, place)
                raise
        with suppress(OSError):
            (place / STREAM).unlink(missing_ok=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def open_staging(target: Path, recipe: Recipe, *, resume: bool, force: bool) -> Iterator[Staging]:
    """Open OUT.part for one recipe, exclusively. It is kept if the work ends early, so that it can be resumed.

    `resume` and `force` together: resume if the recipe is the same, otherwise start over; a finished artifact at the
    target is replaced either way. Raises TargetError or DiskError.
    """
    with exclusive_lock(target):
        check_overwrite(target, force=force)
        folder = get_sibling(target, ".part")
        with translate_disk_errors(folder):
            folder.mkdir(exist_ok=True)
        if resume:
            check_recipe(target, recipe, force=force)
        _prepare_folder(folder, recipe, resume=resume)
        yield Staging(target, folder)


def _prepare_folder(folder: Path, recipe: Recipe, *, resume: bool) -> None:
    """Keep the folder if an earlier run of the same recipe is resumed, otherwise empty it."""
    if (folder / RECIPE).is_file():
        if resume and not find_recipe_differences(folder, recipe):
            return
    else:
        check_part(folder)
    _reset_folder(folder, recipe)


def _reset_folder(folder: Path, recipe: Recipe) -> None:
    """The recipe is replaced last: after a kill, the folder still counts as an unfinished run."""
    with translate_disk_errors(folder):
        for entry in folder.iterdir():
            if entry.name != NOTES:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        _write_recipe(folder, recipe)


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe atomically."""
    half = (folder / RECIPE).with_suffix(".tmp")
    write_json(half, recipe.entries)
    os.replace(half, folder / RECIPE)
