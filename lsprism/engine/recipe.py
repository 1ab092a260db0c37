"""The recipe of a compression: everything that decides the bytes of the result, resolved."""

import hashlib
import os

from torch import Tensor

import lsprism
from lsprism.artifact.target import BASE_PATH, load_compute_dtype
from lsprism.engine.plan import PreparedPlan, prepare_checked_plan
from lsprism.engine.run import compute_batch_tokens
from lsprism.paths import expand
from lsprism.specs import CompressSpec


def make_recipe(spec: CompressSpec, plan: PreparedPlan, tokens: Tensor) -> dict:
    """The same recipe gives the same bytes. tokens [samples, length]."""
    asked = spec.model_dump(mode="json", exclude={"save_path", "resume", "force"})
    source = plan.plan.source
    return {
        **asked,
        "allocation": spec.rule,
        "device": plan.device.type,
        "dtype": plan.plan.dtype,
        "compute_dtype": plan.plan.compute_dtype,
        "base_model": source.base_model,
        BASE_PATH: os.path.abspath(expand(spec.model_id)) if source.kind in ("folder", "gguf") else "",
        "revision": source.revision,
        "calibration_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "batch_tokens": compute_batch_tokens(spec),
        "lsprism": lsprism.__version__,
    }


def restore_compute_dtype(spec: CompressSpec, plan: PreparedPlan) -> tuple[PreparedPlan, str]:
    """A resumed run computes as it began, which decides the bytes; and a notice where that is slower here."""
    known = load_compute_dtype(spec.save_path) if spec.resume and spec.compute_dtype == "auto" else None
    fastest = plan.plan.compute_dtype
    if known is None or known == fastest:
        return plan, ""
    notice = f"Products are computed in {known}, as before the run was stopped; {fastest} is faster here."
    return prepare_checked_plan(spec.model_copy(update={"compute_dtype": known}), plan.plan.source), notice
