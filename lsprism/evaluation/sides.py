"""The sides of a comparison: the model that is measured and its baseline, loaded the same way, when they are needed."""

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

ROOM = 1.15  # of what the weights take: activations, and what kernels hold beside them
BESIDE = 10**9  # bytes for all else


@dataclass(frozen=True)
class Side:
    """A model, and how it is to be loaded."""

    source: ModelSource
    device: str  # as torch knows it
    dtype: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.source)

    def load(self) -> LoadedModel:
        return load(self.source, self.device, self.dtype)

    def in_dtype(self, dtype: str) -> "Side":
        return replace(self, dtype=dtype)

    def bytes(self) -> int:
        """That its tensors take in memory, by the size of its files."""
        files = {self.source.folder / name for name in tensor_files(self.source.folder).values()}
        stored = stored_dtype(self.source.folder) or torch.float32
        return round(sum(path.stat().st_size for path in files) * DTYPES[self.dtype].itemsize / stored.itemsize)

    def subject(self) -> Subject:
        source = self.source
        known = {name: getattr(source, name) for name in ("model_id", "base_model", "kind", "revision")}
        known |= {"fingerprint": self.fingerprint, "dtype": self.dtype, "device": self.device}
        return Subject(**known | _notes(source))


class Sides:
    """One side, or two that are in memory together only where both fit."""

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
        """Forget what is loaded, so that its memory is free."""
        self._loaded.clear()

    @contextmanager
    def both(self) -> Iterator[tuple[LoadedModel, LoadedModel]]:
        """Baseline and model at once; where they do not fit, the baseline is read from disk layer by layer."""
        assert self.baseline is not None
        if self.together:
            yield self.load(self.baseline), self.load(self.model)
            return
        model = self.load(self.model)
        with offloaded(self.baseline, free_bytes(self.baseline.device)) as baseline:
            yield baseline, model


def side_of(source: ModelSource, device: str, dtype: str) -> Side:
    """With what `auto` stands for. SpecError if the device is not there."""
    return Side(source, str(pick_device(device)), str(pick_dtype(dtype, source)).removeprefix("torch."))


def fit(*sides: Side) -> bool:
    """Whether all of them go into the memory that is free now."""
    return ROOM * sum(side.bytes() for side in sides) + BESIDE < free_bytes(sides[0].device)


def free_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return free_memory()


@contextmanager
def offloaded(side: Side, room: int) -> Iterator[LoadedModel]:
    """The model with as many layers in memory as fit into `room` bytes; accelerate reads the others when they run."""
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
    """Of an artifact the checksum of its manifest, which holds those of all files; else of config, names, sizes and
    times of the weights: reading 16 GB to tell two models apart would take a minute."""
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
    """What an artifact says of itself."""
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
