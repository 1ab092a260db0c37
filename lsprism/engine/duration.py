"""Predicts the duration of a compression before it starts: the operations of its plan divided by this machine's speed.

Four parts: forward passes over the calibration tokens (in the compute dtype), Gram matrices of the inputs (float32),
the method's work on each matrix (float32), and element-wise work on the activations. The speed of matrix products is
measured once per machine (packed/compute_dtype.py).
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lsprism.allocation import RULES
from lsprism.allocation.error_curves import DENSITIES
from lsprism.calibration.blockwise import BATCH_TOKENS
from lsprism.methods import METHODS
from lsprism.models.structure import ModelStructure
from lsprism.packed.compute_dtype import measure_rates
from lsprism.records.model_plan import DurationEstimate, Layer
from lsprism.specs import PlanSpec


@dataclass(frozen=True)
class MethodCost:
    """Work of a method on a matrix [rows, columns]: seconds per entry, and operations per entry and column."""

    seconds: float
    operations: float

    def estimate_seconds(self, rows: int, columns: int, speeds: "MachineSpeeds") -> float:
        """Seconds."""
        return rows * columns * (self.seconds + self.operations * columns / speeds.float32)


# Fitted to single layers of 576 to 4096 columns on two AVX2 cores.
FACTORIZATION = MethodCost(6e-9, 0.8)  # of a Gram matrix
COSTS = {
    ("magnitude", "fast"): MethodCost(19e-9, 0.0),
    ("wanda", "fast"): MethodCost(15e-9, 0.3),
    ("sparsegpt", "fast"): MethodCost(95e-9, 2.2),
    ("hybrid", "fast"): MethodCost(320e-9, 22.0),
    ("hybrid", "best"): MethodCost(1900e-9, 555.0),
    ("oats", "fast"): MethodCost(3800e-9, 0.0),
    ("svd", "fast"): MethodCost(75e-9, 1.0),
    ("svd-plain", "fast"): MethodCost(85e-9, 0.0),
}
ACTIVATION = 4e-9  # seconds per token and feature of a layer's inputs and outputs in a forward pass
FORWARDS = 2.0  # forward passes of a block over all tokens
ANCHORED_FORWARDS = 2.7  # the same with error compensation, which also runs the dense block
AGAIN = 0.7  # fraction of a forward pass that is repeated per layer to measure its sensitivity


@dataclass(frozen=True)
class MachineSpeeds:
    """Operations per second of matrix products."""

    compute: float  # in the compute dtype
    float32: float


def can_predict(spec: PlanSpec) -> bool:
    """Whether the method's cost is known; that of a method of another package is not."""
    return (spec.method, spec.effort) in COSTS


def predict_duration(
    spec: PlanSpec, model: PreTrainedModel, anatomy: ModelStructure, compute: torch.dtype
) -> DurationEstimate:
    """Predict the duration on this CPU from its measured speed.

    Excludes reconstruction and distillation, whose time is an option. An upper bound for experts, which see only a part
    of the tokens.
    """
    rates = measure_rates(model.dtype)
    speeds = MachineSpeeds(rates.get(compute, rates[torch.float32]), rates[torch.float32])
    blocks: list[list[Layer]] = [[] for _ in range(anatomy.count)]
    for site in anatomy.sites:
        blocks[site.block].append(site)
    return DurationEstimate(
        sensitivity=sum(_estimate_measurement(spec, sites, speeds) for sites in blocks),
        blocks=sum(_estimate_compression(spec, sites, speeds) for sites in blocks),
    )


def _estimate_compression(spec: PlanSpec, sites: list[Layer], speeds: MachineSpeeds) -> float:
    """Seconds to compress one block."""
    method = METHODS[spec.method]
    tokens = spec.calibration.samples * spec.calibration.length
    anchored = method.anchor > 0
    forwards = ANCHORED_FORWARDS if anchored else FORWARDS
    seconds = forwards * _estimate_forward(sites, tokens, spec.calibration.length, speeds)
    if method.needs_gram:
        for columns in _list_input_columns(sites):
            seconds += (2 if anchored else 1) * 2 * tokens * columns**2 / speeds.float32
            seconds += FACTORIZATION.estimate_seconds(columns, columns, speeds)
    return seconds + sum(
        COSTS[spec.method, spec.effort].estimate_seconds(site.rows, site.columns, speeds) for site in sites
    )


def _estimate_measurement(spec: PlanSpec, sites: list[Layer], speeds: MachineSpeeds) -> float:
    """Seconds of the allocation rule's measurements on one block, before the compression."""
    rule = RULES[spec.rule]
    length = spec.calibration.length
    if rule.needs != "inputs":
        return 0.0
    tokens = length * min(spec.calibration.samples, rule.samples or spec.calibration.samples)
    seconds = _estimate_forward(sites, tokens, length, speeds)
    if rule.by:
        few = min(tokens, rule.batch_tokens or BATCH_TOKENS)
        again = AGAIN * len(sites) * _estimate_forward(sites, few, length, speeds)
        cost = COSTS[rule.by(spec), "fast"]
        times = 1 if spec.rule == "sensitivity" else 1 + len(DENSITIES)
        seconds += again + times * sum(cost.estimate_seconds(site.rows, site.columns, speeds) for site in sites)
    return seconds


def _estimate_forward(sites: list[Layer], tokens: int, length: int, speeds: MachineSpeeds) -> float:
    """Seconds for one block to read `tokens` in windows of `length`: linear layers, attention, element-wise work."""
    products = sum(2 * site.parameters for site in sites)
    attention = 2 * length * sites[0].columns
    features = sum(site.rows + site.columns for site in sites)
    return tokens * ((products + attention) / speeds.compute + ACTIVATION * features)


def _list_input_columns(sites: list[Layer]) -> list[int]:
    """Columns of every distinct input. In a module, all layers except the last share one (q, k, v; gate, up)."""
    modules: dict[str, list[Layer]] = {}
    for site in sites:
        modules.setdefault(site.name.rpartition(".")[0], []).append(site)
    found = []
    for inside in modules.values():
        found += [*{site.columns for site in inside[:-1]}, inside[-1].columns]
    return found
