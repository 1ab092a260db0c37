"""OWL (Yin et al.: Outlier Weighed Layerwise Sparsity, 2024): blocks with more outliers keep more.

An outlier is a Wanda score |W_ij| * ||X_j||_2 above M times the mean of all scores of its block. With D_b the fraction
of outliers in block b, rescaled over the blocks to [0, 2 lambda]: density_b = density + D_b - a constant, which makes
the total fit.
"""

from collections import defaultdict
from collections.abc import Iterator

from torch import Tensor

from lsprism.allocation.layer_inputs import LayerInputs
from lsprism.allocation.normalize import LayerAllocation, shift_to_total
from lsprism.allocation.rule import AllocationRule
from lsprism.methods.wanda import compute_scores
from lsprism.records.model_plan import Layer, LayerSensitivity
from lsprism.rule_catalog import RuleInfo

M, LAMBDA = 5.0, 0.08


def measure_outliers(block: list[LayerInputs]) -> Iterator[LayerSensitivity]:
    """Compute the fraction of outliers of each layer of a block."""
    count = max(1, sum(seen.site.parameters for seen in block))  # a block may have no layers to compress
    total = sum((_compute_scores(seen).sum(dtype=seen.inputs.squares.dtype).item() for seen in block), start=0.0)
    mean = total / count
    for seen in block:
        above = (_compute_scores(seen) > M * mean).double().mean().item()
        yield LayerSensitivity(name=seen.site.name, outlier_share=above)


def _compute_scores(seen: LayerInputs) -> Tensor:
    return compute_scores(seen.weight, seen.inputs.norms)


def allocate_owl(sites: list[Layer], density: float, traits: list[LayerSensitivity]) -> dict[str, LayerAllocation]:
    """Allocate by outliers; `traits` are the results of `measure_outliers`."""
    found: dict[int, float] = defaultdict(float)
    sizes: dict[int, int] = defaultdict(int)
    for site, seen in zip(sites, traits, strict=True):
        found[site.block] += seen.outlier_share * site.parameters
        sizes[site.block] += site.parameters
    shares = {block: found[block] / sizes[block] for block in sizes}
    least, spread = min(shares.values()), max(shares.values()) - min(shares.values())
    stretch = 2 * LAMBDA / spread if spread else 0.0
    return shift_to_total(sites, [density + stretch * (shares[site.block] - least) for site in sites], density)


INFO = RuleInfo(
    name="owl",
    keeps="more outliers are among \\|W\\| · ‖X‖₂",
    position=20,
)
RULE = AllocationRule(allocate_owl, "inputs", lambda block, _: measure_outliers(block))
