"""The last step of a compression: writes all files other than the tensors, then publishes the folder by a rename."""

import platform
from pathlib import Path

import psutil
import safetensors
import torch
import transformers

from lsprism.artifact.manifest import ENVIRONMENT, FORMAT, PLAN, RECIPE, REPORT, write_json
from lsprism.artifact.model_card import render_model_card
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.shards import translate_disk_errors
from lsprism.artifact.sidecar_files import CARD, copy_companions, read_license
from lsprism.artifact.staging import Staging
from lsprism.models.checks import read_config
from lsprism.models.other_formats import QUANT_METHOD
from lsprism.models.tensor_files import INDEX
from lsprism.models.ties import remove_ties
from lsprism.records.compression import CompressionReport, LayerReport
from lsprism.records.model_plan import Plan


def write_artifact(
    stage: Staging, plan: Plan, recipe: Recipe, layers: list[LayerReport], *, seconds: float, calibration: str
) -> CompressionReport:
    """Write config, tokenizer, index, notes and model card, count the sizes from the files, and publish the folder."""
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
        peak_memory_bytes=read_peak_memory(),
        calibration=calibration,
        device=plan.device,
        dtype=plan.dtype,
    )
    license_info = read_license(plan.source.folder, plan.source.base_model)
    with translate_disk_errors(folder):
        copy_companions(plan.source.folder, folder, license_info, processors=not plan.dropped)
        write_json(folder / "config.json", build_artifact_config(plan, layers))
        write_json(folder / INDEX, build_index(shards))
        write_json(folder / PLAN, _remove_folders(plan))
        write_json(folder / REPORT, report.model_copy(update={"save_path": Path(stage.target.name)}))
        write_json(folder / ENVIRONMENT, collect_environment())
        (folder / CARD).write_text(render_model_card(plan, report, recipe, license_info), encoding="utf-8")
    assert (folder / RECIPE).is_file()
    stage.publish()
    return report


def build_artifact_config(plan: Plan, layers: list[LayerReport]) -> dict:
    """The model's config.json with our quantization_config: format and size of each packed layer."""
    config = replace_dtype(read_config(plan.source.folder), plan.dtype)
    if plan.untied:
        config = remove_ties(config)
    modules = {
        layer.name: {"form": layer.form, "kept": layer.kept, "rank": layer.rank, "values": layer.values}
        for layer in layers
        if layer.form != "dense"
    }
    return {
        **config,
        "dtype": plan.dtype,
        "quantization_config": {"quant_method": QUANT_METHOD, "format": FORMAT, "modules": modules},
    }


def replace_dtype(config: dict, dtype: str) -> dict:
    """Set `dtype` in every part of the config that has one: transformers may read only the text part."""
    changed = {key: replace_dtype(part, dtype) if _is_part(key, part) else part for key, part in config.items()}
    if changed.pop("torch_dtype", None) is not None or "dtype" in changed:
        changed["dtype"] = dtype
    return changed


def _is_part(key: str, value: object) -> bool:
    return key.endswith("_config") and key != "quantization_config" and isinstance(value, dict)


def _remove_folders(plan: Plan) -> Plan:
    """Artifacts are shared, so the plan keeps no local paths."""
    folder = Path(plan.source.folder.name)
    return plan.model_copy(update={"source": plan.source.model_copy(update={"folder": folder})})


def build_index(shards: list[Path]) -> dict:
    """Content of model.safetensors.index.json: the file of each tensor."""
    weight_map: dict[str, str] = {}
    total = 0
    for path in shards:
        with safetensors.safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                weight_map[name] = path.name
        total += path.stat().st_size
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def collect_environment() -> dict:
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


def read_peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes; 0 if the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return getattr(psutil.Process().memory_info(), "peak_wset", 0)  # Windows
