"""The last step of a compression: everything beside the tensors, then the rename that publishes the folder."""

import json
import platform
import shutil
from pathlib import Path

import psutil
import safetensors
import torch
import transformers

from lsprism.artifact.card import model_card
from lsprism.artifact.manifest import ENVIRONMENT, FORMAT, PLAN, QUANT_METHOD, RECIPE, REPORT, write_json
from lsprism.artifact.shards import disk_errors
from lsprism.artifact.staging import Staging
from lsprism.reports import CompressionReport, LayerReport, Plan

# What a transformers folder holds beside config and weights, and what a licence asks to hand on.
COMPANIONS = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "generation_config.json", "*.model", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip


def finish(
    stage: Staging, plan: Plan, recipe: dict, layers: list[LayerReport], *, seconds: float, calibration: str
) -> CompressionReport:
    """Write config, tokenizer, index, notes and card; count the sizes from the files; publish."""
    folder = stage.folder
    shards = sorted(folder.glob("model-*.safetensors"))
    report = CompressionReport(
        save_path=stage.target,
        model_id=plan.source.model_id,
        method=plan.method,
        sparsity=plan.sparsity,
        layers=layers,
        model_parameters=plan.model_parameters,
        kept_parameters=plan.model_parameters - sum(layer.rows * layer.columns - layer.kept for layer in layers),
        stored_bytes=sum(path.stat().st_size for path in shards),
        dense_stored_bytes=plan.dense_stored_bytes,
        seconds=seconds,
        peak_memory_bytes=peak_memory(),
        calibration=calibration,
        device=plan.device,
        dtype=plan.dtype,
    )
    with disk_errors(folder):
        _copy_companions(plan.source.folder, folder)
        write_json(folder / "config.json", artifact_config(plan, layers))
        write_json(folder / "model.safetensors.index.json", _index(shards))
        write_json(folder / PLAN, plan)
        write_json(folder / REPORT, report)
        write_json(folder / ENVIRONMENT, environment())
        (folder / "README.md").write_text(model_card(plan, report, recipe), encoding="utf-8")
    assert (folder / RECIPE).is_file()
    stage.publish()
    return report


def artifact_config(plan: Plan, layers: list[LayerReport]) -> dict:
    """The model's own config.json with our quantization_config: which module holds which form, and how large."""
    config = json.loads((plan.source.folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    modules = {
        layer.name: {"form": layer.form, "kept": layer.kept, "rank": layer.rank}
        for layer in layers
        if layer.form != "dense"
    }
    return {
        **config,
        "dtype": plan.dtype,
        "quantization_config": {"quant_method": QUANT_METHOD, "format": FORMAT, "modules": modules},
    }


def _index(shards: list[Path]) -> dict:
    weight_map, total = {}, 0
    for path in shards:
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                weight_map[name] = path.name
        total += path.stat().st_size
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _copy_companions(source: Path, folder: Path) -> None:
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)


def environment() -> dict:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory() -> int:
    """Highest resident memory of this process so far, bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return getattr(psutil.Process().memory_info(), "peak_wset", 0)  # Windows
