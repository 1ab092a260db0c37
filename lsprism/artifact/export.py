"""Dense copies of any source, which transformers loads without this package. Written file by file: only the tensors of
one file are in memory at a time."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from lsprism.artifact.manifest import REMEDY, read_recipe, write_json
from lsprism.artifact.model_card import render_dense_card
from lsprism.artifact.publish import build_index
from lsprism.artifact.shards import format_shard_name, translate_disk_errors, write_shard
from lsprism.artifact.sidecar_files import CARD, copy_companions, read_license
from lsprism.artifact.target import ANOTHER, MOVE, check_place, exclusive_lock
from lsprism.errors import DamagedError, ResourceError, TargetError
from lsprism.events import BlockClock, Event, Stage
from lsprism.json_files import Shape, read_object
from lsprism.models.checks import read_config
from lsprism.models.structure import build_meta_model, find_structure
from lsprism.models.tensor_files import INDEX, SINGLE, find_stored_dtype, map_tensor_files
from lsprism.models.ties import find_untied_names, get_tied_names, remove_ties
from lsprism.models.weights import WeightFiles
from lsprism.packed.modules import PrismLinear, make_meta_packed
from lsprism.paths import find_existing, get_sibling
from lsprism.records.model_plan import Layer, LayerBudget, ModelSource

FILE_BYTES = 5 * 10**9  # maximum size of a file, unless one tensor is larger; usual on the Hub
UNFINISHED = "unfinished"  # marks a folder of a killed export, which may be deleted


class EntryShape(Shape):
    form: str
    kept: int
    rank: int
    values: str = "float"


class PackingShape(Shape):
    modules: dict[str, EntryShape]


class PackedShape(Shape):
    quantization_config: PackingShape


@dataclass(frozen=True)
class _Part:
    """Tensors of one source file that become one file of the copy."""

    file: Path
    sizes: dict[str, int]  # name in the copy -> bytes

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class _Unpacker:
    """Reads tensors as the copy stores them: packed layers are converted to dense weights, others are unchanged."""

    entries: dict[str, dict]  # packed layer -> its form, kept and rank; empty for a dense source
    sites: dict[str, Layer]

    def compute_sizes(self, path: Path, keys: Iterable[str]) -> dict[str, int]:
        """Name -> bytes of the tensors that `keys` of a source file become; nothing is read."""
        found = {}
        with _open_tensors(path) as stored, _translate_shape_errors(path):
            for key in keys:
                owner, _, part = key.rpartition(".")
                tensor = stored.get_tensor(key)
                if owner not in self.entries or part == "bias":
                    found[key] = tensor.nbytes
                elif part == "weight":
                    scales = f"{owner}.scales"  # int8 values have scales in the dtype of the dense copy
                    small = scales in stored.keys()  # noqa: SIM118 - not a dict
                    itemsize = (stored.get_tensor(scales) if small else tensor).itemsize
                    found[key] = self.sites[owner].parameters * itemsize
        return found

    def read(self, part: _Part) -> dict[str, Tensor]:
        with _open_tensors(part.file) as stored, _translate_shape_errors(part.file):
            return {name: self._read_tensor(stored, name) for name in part.sizes}

    def _read_tensor(self, stored: safe_open, name: str) -> Tensor:
        owner, _, part = name.rpartition(".")
        if owner not in self.entries or part == "bias":
            return stored.get_tensor(name)
        site = self.sites[owner]
        entry = self.entries[owner]
        budget = LayerBudget(kept=entry["kept"], rank=entry["rank"])
        values = entry.get("values", "float")
        try:
            packed = PrismLinear(make_meta_packed(site, entry["form"], budget, torch.get_default_dtype(), values))
            held = {key: stored.get_tensor(f"{owner}.{key}") for key in packed.state_dict()}
            packed.load_state_dict(held, assign=True)
            dense = packed.form.to_dense()
        except (RuntimeError, LookupError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise DamagedError(f"{owner} does not match its entry in config.json: {reason}.", REMEDY) from None
        return dense.T.contiguous() if site.transposed else dense


def stream_dense_copy(source: ModelSource, target: Path) -> Iterator[Event]:
    """Write a dense copy of `source` to the folder `target`, which must not exist; it is complete afterwards or absent.

    An artifact must have been verified before. The last event is the Progress of the last file. Raises TargetError,
    SourceError, ResourceError, DamagedError or DiskError.
    """
    check_absent(target)
    model = build_meta_model(source.folder, find_stored_dtype(source.folder) or torch.bfloat16)
    config = _make_dense_config(source, model)
    unpacker = _make_unpacker(source, model)
    parts = list(_iter_parts(source.folder, unpacker))
    _check_disk(sum(part.bytes for part in parts), target)
    with _create_unfinished(target) as folder:
        yield Stage(name="export", detail=str(target))
        clock = BlockClock(len(parts))
        for number, part in enumerate(parts, start=1):
            name = SINGLE if len(parts) == 1 else format_shard_name(number, len(parts))
            write_shard(folder / name, unpacker.read(part))
            clock.next_block()
            yield clock.make_progress("write", 0.0)
        with translate_disk_errors(folder):
            if len(parts) > 1:
                write_json(folder / INDEX, build_index(sorted(folder.glob("model-*.safetensors"))))
            write_json(folder / "config.json", config)
            _write_description(source, folder)


def check_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise TargetError(f"{target} already exists.", ANOTHER)
    check_place(target)


def _check_disk(need: int, target: Path) -> None:
    existing = find_existing(get_sibling(target).parent)
    free = shutil.disk_usage(existing).free
    if need > free:
        raise ResourceError(
            f"This needs about {need / 1e9:.1f} GB of disk space in {existing}, {free / 1e9:.1f} GB are free.",
            "Free some space, or choose another --save-path.",
        )


def _make_dense_config(source: ModelSource, model: PreTrainedModel) -> dict:
    config = read_config(source.folder)
    config.pop("quantization_config", None)
    return remove_ties(config) if find_untied_names(model) and not get_tied_names(model) else config


def _make_unpacker(source: ModelSource, model: PreTrainedModel) -> _Unpacker:
    if source.kind != "artifact":
        WeightFiles(source.folder, model)  # checks the weights
        return _Unpacker({}, {})
    path = source.folder / "config.json"
    entries = read_object(path, PackedShape, DamagedError, REMEDY)["quantization_config"]["modules"]
    sites = {site.name: site for site in find_structure(model).sites}
    if strange := min(entries.keys() - sites.keys(), default=""):
        raise DamagedError(f"{path}: {strange} is not a layer that can be packed.", REMEDY)
    return _Unpacker(entries, sites)


def _iter_parts(folder: Path, unpacker: _Unpacker) -> Iterator[_Part]:
    """Each source file becomes one file of the copy, or several if it would exceed FILE_BYTES."""
    keys: dict[str, list[str]] = {}
    for key, file in map_tensor_files(folder).items():  # of two with the same name, only the one that is loaded
        keys.setdefault(file, []).append(key)
    for file in keys:
        part = _Part(folder / file, {})
        for name, size in unpacker.compute_sizes(folder / file, keys[file]).items():
            if part.sizes and part.bytes + size > FILE_BYTES:
                yield part
                part = _Part(folder / file, {})
            part.sizes[name] = size
        yield part


def _write_description(source: ModelSource, folder: Path) -> None:
    """Write tokenizer, chat template, license files and model card."""
    recipe = read_recipe(source.folder) if source.kind == "artifact" else None
    base = recipe.base_model if recipe else source.base_model
    license_info = read_license(source.folder, base)
    copy_companions(source.folder, folder, license_info)
    (folder / CARD).write_text(render_dense_card(base, recipe, license_info), encoding="utf-8")


@contextmanager
def _create_unfinished(target: Path) -> Iterator[Path]:
    """An empty folder next to `target` that is renamed to `target` on success and removed on any failure."""
    with exclusive_lock(target):
        folder = get_sibling(target, ".export")
        if folder.exists() and not (folder / UNFINISHED).is_file():
            raise TargetError(f"{folder} exists and is not an unfinished export.", MOVE)
        with translate_disk_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed export
            folder.mkdir()
            (folder / UNFINISHED).touch()
        try:
            yield folder
            with translate_disk_errors(target):
                (folder / UNFINISHED).unlink()
                os.replace(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def _open_tensors(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} cannot be read: {error}.", REMEDY) from None


@contextmanager
def _translate_shape_errors(path: Path) -> Iterator[None]:
    """Turn errors about packed tensors that do not match config.json into a DamagedError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DamagedError(f"{path} does not match config.json: {reason}.", REMEDY) from None
