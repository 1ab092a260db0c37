"""The evaluated model and its baseline, loaded on demand and in the same way."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import AutoModelForCausalLM

from lsprism.artifact.manifest import MANIFEST, REPORT, compute_sha256, read_recipe
from lsprism.json_files import Shape, read_known
from lsprism.machine import get_free_memory
from lsprism.models.checks import read_config
from lsprism.models.load import DTYPES, LoadedModel, load, load_tokenizer, select_device, select_dtype
from lsprism.models.module_utils import use_plain_outputs
from lsprism.models.tensor_files import find_stored_dtype, map_tensor_files
from lsprism.records.evaluation import ModelInfo
from lsprism.records.model_plan import ModelSource

ROOM = 1.15  # estimated memory relative to the weights, with activations and kernel buffers
BESIDE = 10**9  # bytes for everything else


@dataclass(frozen=True)
class EvaluatedModel:
    """A model and how to load it."""

    source: ModelSource
    device: str  # torch device name
    dtype: str

    @property
    def fingerprint(self) -> str:
        return compute_fingerprint(self.source)

    def load(self) -> LoadedModel:
        return load(self.source, self.device, self.dtype)

    def replace_dtype(self, dtype: str) -> "EvaluatedModel":
        return replace(self, dtype=dtype)

    def count_bytes(self) -> int:
        """Estimated bytes of its tensors in memory, from the size of its files."""
        files = {self.source.folder / name for name in map_tensor_files(self.source.folder).values()}
        stored = find_stored_dtype(self.source.folder) or torch.float32
        return round(sum(path.stat().st_size for path in files) * DTYPES[self.dtype].itemsize / stored.itemsize)

    def get_info(self) -> ModelInfo:
        source = self.source
        known = {name: getattr(source, name) for name in ("model_id", "base_model", "kind", "revision")}
        known |= {"fingerprint": self.fingerprint, "dtype": self.dtype, "device": self.device}
        return ModelInfo(**known | _read_notes(source))


class ModelPair:
    """One model, or two, which are in memory together only if both fit."""

    def __init__(self, model: EvaluatedModel, baseline: EvaluatedModel | None) -> None:
        self.model, self.baseline = model, baseline
        self.together = baseline is None or fits_in_memory(model, baseline)
        self._loaded: dict[EvaluatedModel, LoadedModel] = {}

    def load(self, side: EvaluatedModel) -> LoadedModel:
        if side not in self._loaded:
            if not self.together:
                self._loaded.clear()
            self._loaded[side] = side.load()
        return self._loaded[side]

    def release(self) -> None:
        """Release the loaded models."""
        self._loaded.clear()

    @contextmanager
    def load_both(self) -> Iterator[tuple[LoadedModel, LoadedModel]]:
        """Baseline and model together; if they do not fit, the baseline is read from disk layer by layer."""
        assert self.baseline is not None
        if self.together:
            yield self.load(self.baseline), self.load(self.model)
            return
        model = self.load(self.model)
        with load_offloaded(self.baseline, get_free_bytes(self.baseline.device)) as baseline:
            yield baseline, model


def resolve_model(source: ModelSource, device: str, dtype: str) -> EvaluatedModel:
    """Resolve `auto` for device and dtype. SpecError if the device is not available."""
    return EvaluatedModel(source, str(select_device(device)), str(select_dtype(dtype, source)).removeprefix("torch."))


def fits_in_memory(*sides: EvaluatedModel) -> bool:
    """Whether all of them fit in the free memory."""
    return ROOM * sum(side.count_bytes() for side in sides) + BESIDE < get_free_bytes(sides[0].device)


def get_free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return get_free_memory()


@contextmanager
def load_offloaded(side: EvaluatedModel, room: int) -> Iterator[LoadedModel]:
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


def compute_fingerprint(source: ModelSource) -> str:
    """For an artifact, the checksum of its manifest, which covers all files; otherwise a checksum of the config and of
    names, sizes and modification times of the weights: reading 16 GB of weights would take a minute."""
    manifest = source.folder / MANIFEST
    if manifest.is_file():
        return compute_sha256(manifest)[:16]
    digest = hashlib.sha256((source.folder / "config.json").read_bytes())
    for name in sorted(set(map_tensor_files(source.folder).values())):
        state = (source.folder / name).stat()
        digest.update(f"{name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


class ReportShape(Shape):
    calibration: str = ""


def _read_notes(source: ModelSource) -> dict:
    """Report of an artifact; empty if there is none."""
    if source.kind != "artifact":
        return {}
    recipe = read_recipe(source.folder)
    report = source.folder / REPORT
    modules = read_config(source.folder).get("quantization_config", {}).get("modules", {})
    text = read_known(report, ReportShape).get("calibration", "")
    return {
        "method": recipe.method if recipe else "",
        "sparsity": recipe.sparsity if recipe else None,
        "base_model": recipe.base_model if recipe else source.base_model,
        "calibration": text,
        "packed_layers": len(modules),
    }
