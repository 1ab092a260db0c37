"""The place a result goes to: OUT, with OUT.part and OUT.lock beside it while it is made. Refuses what is taken."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lsprism.artifact.manifest import MANIFEST, NOTES, RECIPE, read_report, recipe_of, verify
from lsprism.artifact.shards import disk_errors
from lsprism.errors import TargetError
from lsprism.json_files import read_known
from lsprism.old_names import with_current_names
from lsprism.paths import beside, check_writable, nearest_existing
from lsprism.reports import CompressionReport, LayerBudget
from lsprism.specs import CompressSpec

ANOTHER = "Choose another --save-path."
OLD_BOS = "first"  # the calibration's `bos` of recipes that do not say it
# Entries of a recipe that are no settings: what follows from these, and where a local base model lies on this machine.
BUDGETS, BASE_PATH = "site_budgets", "base_path"


def check_target(target: Path, *, resume: bool, force: bool) -> None:
    """Refuse at once, before anything is read or fetched, a target that cannot become what is asked."""
    check_place(target)
    check_free(target, force=force or resume)
    if _is_locked(target):
        raise _busy(target)
    part = beside(target, ".part")
    if not os.path.lexists(part):
        return
    check_part(part)
    check_writable(part / "shard", "Choose another --save-path, or remove that folder.")
    if (part / RECIPE).is_file() and not (resume or force):
        raise TargetError(f"{part} holds an unfinished run.", "--resume goes on with it, --force starts anew.")


def check_place(target: Path) -> None:
    """Refuse a target that cannot be written: below a file, in a folder without the right to, with too long a name."""
    above = nearest_existing(beside(target).parent)
    if not above.is_dir():
        raise TargetError(f"{target} cannot be made: {above} is a file.", ANOTHER)
    if not os.access(above, os.W_OK | os.X_OK):
        raise TargetError(f"{target} cannot be made: {above} is not writable.", ANOTHER)
    check_writable(beside(target), ANOTHER)


def check_free(target: Path, *, force: bool) -> None:
    """Refuse a target that exists, unless it is an artifact of ours and `force` says to replace it."""
    if not os.path.lexists(target):
        return
    place = beside(target)
    if not (place / MANIFEST).is_file():
        raise TargetError(f"{target} exists and is not an artifact of LS-PRISM.", ANOTHER)
    if not force:
        raise TargetError(f"{target} already holds an artifact.", f"{ANOTHER[:-1]}, or --force to replace it.")
    if os.path.ismount(place):
        raise TargetError(f"{target} is a mount point, which cannot be replaced.", "Choose a folder inside of it.")
    replaced = beside(target, ".replaced")  # where it will wait until the new one is in its place
    if os.path.lexists(replaced) and not (replaced / MANIFEST).is_file():
        raise TargetError(f"{replaced} exists and is not an artifact of LS-PRISM.", "Move it away.")


def check_part(part: Path) -> None:
    """Refuse an OUT.part that no earlier run has left; an empty one will do."""
    ours = part.is_dir() and ((part / RECIPE).is_file() or {entry.name for entry in part.iterdir()} <= {NOTES})
    if not ours:
        raise TargetError(f"{part} exists and is not an unfinished run.", f"Move it away, or: {ANOTHER}")


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold OUT.lock, or refuse if another process holds it. The system frees the lock of a killed process."""
    path = beside(target, ".lock")
    with disk_errors(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # the stop button may be on another thread
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise _busy(target) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows lets no open file go
            path.unlink()  # while it is held, so that it is ours
        lock.release()


def _is_locked(target: Path) -> bool:
    path = beside(target, ".lock")
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def staged_bytes(target: Path) -> int:
    """What an unfinished run has written already: it will be used again or overwritten."""
    return sum(path.stat().st_size for path in beside(target, ".part").rglob("*") if path.is_file())


def _busy(target: Path) -> TargetError:
    return TargetError(f"Another run is writing {target}.", "Wait for it, or choose another --save-path.")


def check_recipe(target: Path, recipe: dict, *, force: bool) -> None:
    """Refuse, before work goes on, a target that other settings began or made, unless `force` says to replace it."""
    part = beside(target, ".part")
    begun = (part / RECIPE).is_file()
    if force or not (begun or (target / MANIFEST).is_file()):
        return
    if changed := other_settings(part if begun else target, recipe):
        said = ", ".join(changed)
        if begun:
            raise TargetError(f"{part} was begun with {said}.", "Give that again to resume, or --force to start anew.")
        raise TargetError(
            f"{target} already holds an artifact, made with {said}.", f"{ANOTHER[:-1]}, or --force to replace it."
        )


def finished_report(target: Path, recipe: dict, *, force: bool) -> CompressionReport | None:
    """The report of a finished artifact that this very recipe made, checked file by file; None if there is work to do.

    One that other settings made is a TargetError that names them, unless `force` says to replace it; a damaged one is a
    DamagedError.
    """
    if not (target / MANIFEST).is_file() or (beside(target, ".part") / RECIPE).is_file():
        return None
    check_recipe(target, recipe, force=force)
    if other_settings(target, recipe):
        return None
    verify(target)
    return read_report(target).model_copy(update={"save_path": target})  # the file holds only a name: it may be moved


def with_known_steps(target: Path, recipe: dict) -> dict:
    """The recipe with the steps that an earlier session made of the very same minutes: time is measured once."""
    known = dict(recipe)
    for folder in (target, beside(target, ".part")):
        before = read_known(folder / RECIPE)
        for kind in ("reconstruct", "heal"):
            minutes, steps = f"{kind}_minutes", f"{kind}_steps"
            if recipe[minutes] and not recipe[steps] and before.get(minutes) == recipe[minutes]:
                known[steps] = before.get(steps) or known[steps]
    return known


def as_begun(spec: CompressSpec) -> CompressSpec:
    """A resumed run puts BOS where it began to, unless the spec says where. Older recipes do not say it."""
    if not spec.resume or "bos" in spec.calibration.model_fields_set:
        return spec
    for folder in (beside(spec.save_path, ".part"), spec.save_path):
        before = recipe_of(folder).get("calibration")
        if isinstance(before, dict):
            calibration = spec.calibration.model_copy(update={"bos": before.get("bos", OLD_BOS)})
            return spec.model_copy(update={"calibration": calibration})
    return spec


def known_budgets(target: Path, recipe: dict) -> dict[str, LayerBudget] | None:
    """The budgets of the sites that an earlier session of this very recipe settled on; None where there was none."""
    for folder in (beside(target, ".part"), target):
        before = read_known(folder / RECIPE)
        if BUDGETS in before and not other_settings(folder, with_known_steps(target, recipe)):
            with suppress(AttributeError, TypeError, ValueError):  # no budgets that can be read: settled once more
                return {name: LayerBudget(kept=kept, rank=rank) for name, (kept, rank) in before[BUDGETS].items()}
    return None


def known_compute_dtype(target: Path) -> str | None:
    """The compute dtype of the run that was begun, or has made, `target`; None where there is none.

    Before it was recorded, products were computed in the dtype of the weights.
    """
    recipe = recipe_of(beside(target, ".part")) or recipe_of(target)
    return recipe.get("compute_dtype") or recipe.get("dtype")


def other_settings(folder: Path, recipe: dict) -> list[str]:
    """What differs from the recipe in `folder`, in words: 'sparsity 0.5, not 0.3'. Old names equal the current ones."""
    before = read_known(folder / RECIPE)
    if not before:
        return ["a recipe that cannot be read"]
    was, now = _flat(before), _flat(recipe)
    changed = [name for name in {**now, **was} if was.get(name) != now.get(name)]  # in the order in which one asks
    named = [f"{name} {was.get(name)}, not {now.get(name)}" for name in changed if not name.endswith("_sha256")]
    return named or [f"another {name.removesuffix('_sha256').replace('_', ' ')}" for name in changed]


def _flat(recipe: dict) -> dict[str, object]:
    """Settings by the names of their options; `calibration` is the source of its text."""
    recipe = with_current_names(recipe)
    text = recipe.get("calibration")
    inner = {"bos": OLD_BOS} | (text if isinstance(text, dict) else {"source": text})
    source = inner.pop("source", None)
    settings = {name: value for name, value in recipe.items() if name not in (BUDGETS, BASE_PATH)}
    settings.setdefault("compute_dtype", recipe.get("dtype"))  # see known_compute_dtype
    return {**settings, **inner, "calibration": source}
