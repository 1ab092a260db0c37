"""The target folder OUT, with OUT.part and OUT.lock next to it during a run. Checks what exists there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

from filelock import FileLock, Timeout

from lsprism.artifact.manifest import MANIFEST, NOTES, RECIPE, read_recipe, read_report, verify
from lsprism.artifact.recipe import Recipe, TrainingKind
from lsprism.artifact.shards import translate_disk_errors
from lsprism.errors import TargetError
from lsprism.json_files import read_known
from lsprism.paths import check_writable, find_existing, get_sibling
from lsprism.records.compression import CompressionReport
from lsprism.records.model_plan import LayerBudget
from lsprism.specs import CompressSpec

ANOTHER = "Choose another --save-path."
OR_FORCE = "Choose another --save-path, or use --force to replace it."
MOVE = "Move it elsewhere, or choose another --save-path."


def check_target(target: Path, *, resume: bool, force: bool) -> None:
    """Raise TargetError, before anything is read or downloaded, if the target cannot be written or is taken."""
    check_place(target)
    check_overwrite(target, force=force or resume)
    if _is_locked(target):
        raise _make_busy_error(target)
    part = get_sibling(target, ".part")
    if not os.path.lexists(part):
        return
    check_part(part)
    check_writable(part / "shard", "Choose another --save-path, or delete that folder.")
    if (part / RECIPE).is_file() and not (resume or force):
        raise TargetError(f"{part} holds an unfinished run.", "Use --resume to continue or --force to start over.")


def check_place(target: Path) -> None:
    """Raise TargetError for a target that cannot be written: inside a file, no permission, or too long a name."""
    above = find_existing(get_sibling(target).parent)
    if not above.is_dir():
        raise TargetError(f"Cannot create {target}: {above} is a file.", ANOTHER)
    if not os.access(above, os.W_OK | os.X_OK):
        raise TargetError(f"Cannot create {target}: {above} is not writable.", ANOTHER)
    check_writable(get_sibling(target), ANOTHER)


def check_overwrite(target: Path, *, force: bool) -> None:
    """Raise TargetError if the target exists, unless it is an artifact and `force` is set."""
    if not os.path.lexists(target):
        return
    place = get_sibling(target)
    if not (place / MANIFEST).is_file():
        raise TargetError(f"{target} exists and is not an artifact of LS-PRISM.", ANOTHER)
    if not force:
        raise TargetError(f"{target} already holds an artifact.", OR_FORCE)
    if os.path.ismount(place):
        raise TargetError(f"{target} is a mount point and cannot be replaced.", "Choose a folder inside it.")
    replaced = get_sibling(target, ".replaced")  # the old artifact is moved there until the new one is in place
    if os.path.lexists(replaced) and not (replaced / MANIFEST).is_file():
        raise TargetError(f"{replaced} exists and is not an artifact of LS-PRISM.", "Move it elsewhere.")


def check_part(part: Path) -> None:
    """Raise TargetError for an OUT.part that was not left by an earlier run, unless it is empty."""
    ours = part.is_dir() and ((part / RECIPE).is_file() or {entry.name for entry in part.iterdir()} <= {NOTES})
    if not ours:
        raise TargetError(f"{part} exists and is not an unfinished run.", MOVE)


@contextmanager
def exclusive_lock(target: Path) -> Iterator[None]:
    """Hold OUT.lock; TargetError if another process holds it. The system releases the lock of a killed process."""
    path = get_sibling(target, ".lock")
    with translate_disk_errors(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # it may be released on another thread
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _make_busy_error(target) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot delete an open file
            path.unlink()  # while the lock is held, so that no other process has it
        lock.release()


def _is_locked(target: Path) -> bool:
    path = get_sibling(target, ".lock")
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def count_partial_bytes(target: Path) -> int:
    """Bytes that an unfinished run has already written; they will be reused or overwritten."""
    return sum(path.stat().st_size for path in get_sibling(target, ".part").rglob("*") if path.is_file())


def _make_busy_error(target: Path) -> TargetError:
    return TargetError(f"Another run is writing {target}.", "Wait for it, or choose another --save-path.")


def check_recipe(target: Path, recipe: Recipe, *, force: bool) -> None:
    """Raise TargetError for a run or artifact made with different settings, unless `force` is set."""
    part = get_sibling(target, ".part")
    begun = (part / RECIPE).is_file()
    if force or not (begun or (target / MANIFEST).is_file()):
        return
    if changed := find_recipe_differences(part if begun else target, recipe):
        said = ", ".join(changed)
        if begun:
            raise TargetError(
                f"{part} was started with different settings: {said}.",
                "Use the same settings to resume, or --force to start over.",
            )
        raise TargetError(f"{target} already holds an artifact made with different settings: {said}.", OR_FORCE)


def load_finished_report(target: Path, recipe: Recipe, *, force: bool) -> CompressionReport | None:
    """The report of a finished artifact with the same recipe, after verifying its files; None if there is work to do.

    Raises TargetError, naming the differences, for an artifact with different settings unless `force` is set, and
    DamagedError for a damaged one.
    """
    if not (target / MANIFEST).is_file() or (get_sibling(target, ".part") / RECIPE).is_file():
        return None
    check_recipe(target, recipe, force=force)
    if find_recipe_differences(target, recipe):
        return None
    verify(target)
    return read_report(target).model_copy(update={"save_path": target})  # the file has only the folder's name


def restore_steps(target: Path, recipe: Recipe) -> Recipe:
    """The recipe with the step counts that an earlier session derived from the same time limits."""
    known = recipe.copy()
    for folder in (target, get_sibling(target, ".part")):
        before = _read_any_recipe(folder)
        for kind in get_args(TrainingKind):
            minutes = recipe.get_minutes(kind)
            if minutes and not recipe.get_steps(kind) and before.get_minutes(kind) == minutes:
                known.set_steps(kind, before.get_steps(kind) or known.get_steps(kind))
    return known


def _read_any_recipe(folder: Path) -> Recipe:
    """The recipe in `folder`, complete or not; without entries if it cannot be read."""
    return Recipe(read_known(folder / RECIPE))


def restore_bos(spec: CompressSpec) -> CompressSpec:
    """A resumed run keeps its BOS placement, unless the spec sets it. Older recipes do not record it."""
    if not spec.resume or "bos" in spec.calibration.model_fields_set:
        return spec
    for folder in (get_sibling(spec.save_path, ".part"), spec.save_path):
        before = read_recipe(folder)
        if before and before.bos is not None:
            calibration = spec.calibration.model_copy(update={"bos": before.bos})
            return spec.model_copy(update={"calibration": calibration})
    return spec


def load_budgets(target: Path, recipe: Recipe) -> dict[str, LayerBudget] | None:
    """The layer budgets computed by an earlier session with the same recipe; None if there was none."""
    for folder in (get_sibling(target, ".part"), target):
        budgets = _read_any_recipe(folder).get_budgets()
        if budgets is not None and not find_recipe_differences(folder, restore_steps(target, recipe)):
            return budgets
    return None


def load_compute_dtype(target: Path) -> str | None:
    """The compute dtype of the unfinished run or finished artifact at `target`; None if there is none."""
    recipe = read_recipe(get_sibling(target, ".part")) or read_recipe(target)
    return recipe.compute_dtype if recipe else None


def find_recipe_differences(folder: Path, recipe: Recipe) -> list[str]:
    """What differs from the recipe in `folder`, in words: 'sparsity 0.5, not 0.3'. Old names equal the current ones."""
    before = _read_any_recipe(folder)
    if not before.entries:
        return ["unreadable recipe"]
    was = before.flatten_settings()
    now = recipe.flatten_settings()
    changed = [name for name in {**now, **was} if was.get(name) != now.get(name)]  # in the order of the options
    named = [f"{name} {was.get(name)}, not {now.get(name)}" for name in changed if not name.endswith("_sha256")]
    return named or [f"other {name.removesuffix('_sha256').replace('_', ' ')} data" for name in changed]
