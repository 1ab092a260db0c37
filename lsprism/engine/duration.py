"""Predicts how long a compression takes, before it starts: the operations of its plan over this machine's speed.

Four parts: forward passes over the calibration tokens (in the compute dtype), Gram matrices of the inputs (float32),
what the method does with each matrix (float32), and passes over the activations that no product is a part of. The
speed of products is measured once per machine (layers/compute_dtype.py).
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lsprism.budgets import BUDGETS
from lsprism.budgets.curves import DENSITIES
from lsprism.calibration.walk import BATCH_TOKENS
from lsprism.layers.compute_dtype import measure_rates
from lsprism.methods import METHODS
from lsprism.models.anatomy import Anatomy
from lsprism.reports import Duration, LinearSite
from lsprism.specs import PlanSpec


@dataclass(frozen=True)
class Cost:
    """What a method does with a matrix [rows, columns]: seconds an entry, and operations an entry for each column."""

    seconds: float
    operations: float

    def of(self, rows: int, columns: int, speeds: "Speeds") -> float:
        """Seconds."""
        return rows * columns * (self.seconds + self.operations * columns / speeds.float32)


# Fitted to single layers of 576 to 4096 columns on two AVX2 cores. METRIC: factorization of a Gram matrix, per entry.
METRIC = Cost(6e-9, 0.8)
COSTS = {
    ("magnitude", "fast"): Cost(19e-9, 0.0),
    ("wanda", "fast"): Cost(15e-9, 0.3),
    ("sparsegpt", "fast"): Cost(95e-9, 2.2),
    ("hybrid", "fast"): Cost(320e-9, 22.0),
    ("hybrid", "best"): Cost(1900e-9, 555.0),
    ("oats", "fast"): Cost(3800e-9, 0.0),
    ("svd", "fast"): Cost(75e-9, 1.0),
    ("svd-plain", "fast"): Cost(85e-9, 0.0),
}
ACTIVATION = 4e-9  # seconds for each token and feature of a layer's inputs and outputs in a forward pass
FORWARDS, ANCHORED_FORWARDS = 2.0, 2.7  # of a block over all tokens: the model alone, or beside the dense one
AGAIN = 0.7  # of a forward pass, for each layer whose sensitivity is measured


@dataclass(frozen=True)
class Speeds:
    """Operations a second."""

    compute: float  # of products of many tokens
    float32: float


def predict_duration(spec: PlanSpec, model: PreTrainedModel, anatomy: Anatomy, compute: torch.dtype) -> Duration:
    """On a CPU, by its measured speed. Reconstruction and distillation, whose time is given, are not in it; where
    layers are experts, which see a part of the tokens, it is an upper bound."""
    rates = measure_rates(model.dtype)
    speeds = Speeds(rates.get(compute, rates[torch.float32]), rates[torch.float32])
    blocks: list[list[LinearSite]] = [[] for _ in range(anatomy.count)]
    for site in anatomy.sites:
        blocks[site.block].append(site)
    return Duration(
        sensitivity=sum(_seconds_to_measure(spec, sites, speeds) for sites in blocks),
        blocks=sum(_seconds_to_compress(spec, sites, speeds) for sites in blocks),
    )


def _seconds_to_compress(spec: PlanSpec, sites: list[LinearSite], speeds: Speeds) -> float:
    """One block."""
    method, tokens = METHODS[spec.method], spec.calibration.samples * spec.calibration.length
    anchored = method.anchor > 0
    forwards = ANCHORED_FORWARDS if anchored else FORWARDS
    seconds = forwards * _seconds_of_forward(sites, tokens, spec.calibration.length, speeds)
    if method.needs_gram:
        for columns in _inputs(sites):
            seconds += (2 if anchored else 1) * 2 * tokens * columns**2 / speeds.float32
            seconds += METRIC.of(columns, columns, speeds)
    return seconds + sum(COSTS[spec.method, spec.effort].of(site.rows, site.columns, speeds) for site in sites)


def _seconds_to_measure(spec: PlanSpec, sites: list[LinearSite], speeds: Speeds) -> float:
    """What the allocation rule needs of one block before the compression."""
    rule, length = BUDGETS[spec.rule], spec.calibration.length
    if rule.needs != "inputs":
        return 0.0
    tokens = length * min(spec.calibration.samples, rule.samples or spec.calibration.samples)
    seconds = _seconds_of_forward(sites, tokens, length, speeds)
    if rule.by:
        few = min(tokens, rule.batch_tokens or BATCH_TOKENS)
        again = AGAIN * len(sites) * _seconds_of_forward(sites, few, length, speeds)
        cost, times = COSTS[rule.by(spec), "fast"], 1 if spec.rule == "sensitivity" else 1 + len(DENSITIES)
        seconds += again + times * sum(cost.of(site.rows, site.columns, speeds) for site in sites)
    return seconds


def _seconds_of_forward(sites: list[LinearSite], tokens: int, length: int, speeds: Speeds) -> float:
    """One block reads `tokens` in windows of `length`: products, causal attention, and all that is no product."""
    products = sum(2 * site.parameters for site in sites)
    attention = 2 * length * sites[0].columns
    features = sum(site.rows + site.columns for site in sites)
    return tokens * ((products + attention) / speeds.compute + ACTIVATION * features)


def _inputs(sites: list[LinearSite]) -> list[int]:
    """Columns of every distinct input: in a module, all layers but the last share theirs (q, k, v; gate, up)."""
    modules: dict[str, list[LinearSite]] = {}
    for site in sites:
        modules.setdefault(site.name.rpartition(".")[0], []).append(site)
    found = []
    for inside in modules.values():
        found += [*{site.columns for site in inside[:-1]}, inside[-1].columns]
    return found
