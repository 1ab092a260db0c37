"""What a compression needs at its peak, in bytes, beyond an interpreter that has only imported the libraries."""

import torch
from transformers import PreTrainedModel

from lsprism.calibration.walk import BATCH_TOKENS
from lsprism.methods import METHODS
from lsprism.models.anatomy import Anatomy
from lsprism.reports import Memory
from lsprism.specs import PlanSpec


def estimate(spec: PlanSpec, model: PreTrainedModel, anatomy: Anatomy, dtype: torch.dtype) -> Memory:
    config = model.config.get_text_config()
    tokens = spec.calibration.samples * spec.calibration.length
    batch = min(tokens, max(BATCH_TOKENS, spec.calibration.length))
    width = config.hidden_size
    sites = anatomy.of_block(0)
    largest = max(sites, key=lambda site: site.parameters)
    widest = max(max(site.rows, site.columns) for site in sites)
    gram = METHODS[spec.method].needs_gram
    return Memory(
        hidden_states=tokens * width * dtype.itemsize,
        block=sum(site.parameters for site in sites) * dtype.itemsize,
        statistics=sum({site.columns: site.columns**2 * 4 for site in sites}.values()) if gram else 0,
        workspace=largest.parameters * 24 + batch * widest * dtype.itemsize * 3,
        other=96 * 2**20,
    )
