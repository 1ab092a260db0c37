"""The evaluated model and its baseline, loaded on demand and in the same way."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import AutoModelForCausalLM

from lsprism.artifact.manifest import MANIFEST, REPORT, recipe_of, sha256_of
from lsprism.json_files import Shape, read_known
from lsprism.machine import free_memory
from lsprism.models.checks import read_config
from lsprism.models.load import DTYPES, LoadedModel, load, load_tokenizer, pick_device, pick_dtype
from lsprism.models.stored import stored_dtype, tensor_files
from lsprism.models.surgery import use_plain_outputs
from lsprism.outcomes import Subject
from lsprism.reports import ModelSource

ROOM = 1.15  # estimated memory relative to the weights, with activations and kernel buffers
BESIDE = 10**9  # bytes for everything else


@dataclass(frozen=True)
class Side:
    """A model and how to load it."""

    source: ModelSource
    device: str  # torch device name
    dtype: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.source)

    def load(self) -> LoadedModel:
        return load(self.source, self.device, self.dtype)

    def in_dtype(self, dtype: str) -> "Side":
        return replace(self, dtype=dtype)

    def bytes(self) -> int:
        """Estimated bytes of its tensors in memory, from the size of its files."""
        files = {self.source.folder / name for name in tensor_files(self.source.folder).values()}
        stored = stored_dtype(self.source.folder) or torch.float32
        return round(sum(path.stat().st_size for path in files) * DTYPES[self.dtype].itemsize / stored.itemsize)

    def subject(self) -> Subject:
        source = self.source
        known = {name: getattr(source, name) for name in ("model_id", "base_model", "kind", "revision")}
        known |= {"fingerprint": self.fingerprint, "dtype": self.dtype, "device": self.device}
        return Subject(**known | _notes(source))


class Sides:
    """One model, or two, which are in memory together only if both fit."""

    def __init__(self, model: Side, baseline: Side | None) -> None:
        self.model, self.baseline = model, baseline
        self.together = baseline is None or fit(model, baseline)
        self._loaded: dict[Side, LoadedModel] = {}

    def load(self, side: Side) -> LoadedModel:
        if side not in self._loaded:
            if not self.together:
                self._loaded.clear()
            self._loaded[side] = side.load()
        return self._loaded[side]

    def clear(self) -> None:
        """Release the loaded models."""
        self._loaded.clear()

    @contextmanager
    def both(self) -> Iterator[tuple[LoadedModel, LoadedModel]]:
        """Baseline and model together; if they do not fit, the baseline is read from disk layer by layer."""
        assert self.baseline is not None
        if self.together:
            yield self.load(self.baseline), self.load(self.model)
            return
        model = self.load(self.model)
        with offloaded(self.baseline, free_bytes(self.baseline.device)) as baseline:
            yield baseline, model


def side_of(source: ModelSource, device: str, dtype: str) -> Side:
    """Resolve `auto` for device and dtype. SpecError if the device is not available."""
    return Side(source, str(pick_device(device)), str(pick_dtype(dtype, source)).removeprefix("torch."))


def fit(*sides: Side) -> bool:
    """Whether all of them fit in the free memory."""
    return ROOM * sum(side.bytes() for side in sides) + BESIDE < free_bytes(sides[0].device)


def free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return free_memory()


@contextmanager
def offloaded(side: Side, room: int) -> Iterator[LoadedModel]:
    """Load as many layers as fit in `room` bytes; accelerate reads the others from disk when they run."""
    place = torch.device(side.device)
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_pretrained(
            side.source.folder,
            dtype=DTYPES[side.dtype],
            device_map="auto",
            max_memory={(place.index or 0) if place.type == "cuda" else "cpu": room},
            offload_folder=folder,
            trust_remote_code=False,
            use_safetensors=True,
        )
        use_plain_outputs(model)
        model.eval().requires_grad_(False)
        yield LoadedModel(model, load_tokenizer(side.source), side.source, place, DTYPES[side.dtype])


def fingerprint(source: ModelSource) -> str:
    """For an artifact, the checksum of its manifest, which covers all files; otherwise a checksum of the config and of
    names, sizes and modification times of the weights: reading 16 GB of weights would take a minute."""
    manifest = source.folder / MANIFEST
    if manifest.is_file():
        return sha256_of(manifest)[:16]
    digest = hashlib.sha256((source.folder / "config.json").read_bytes())
    for name in sorted(set(tensor_files(source.folder).values())):
        state = (source.folder / name).stat()
        digest.update(f"{name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


class ReportShape(Shape):
    calibration: str = ""


def _notes(source: ModelSource) -> dict:
    """Report of an artifact; empty if there is none."""
    if source.kind != "artifact":
        return {}
    recipe, report = recipe_of(source.folder), source.folder / REPORT
    modules = read_config(source.folder).get("quantization_config", {}).get("modules", {})
    text = read_known(report, ReportShape).get("calibration", "")
    return {
        "method": recipe.get("method", ""),
        "sparsity": recipe.get("sparsity"),
        "base_model": recipe.get("base_model", source.base_model),
        "calibration": text,
        "packed_layers": len(modules),
    }
