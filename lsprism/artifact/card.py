"""The model card: what was done to which model, how to load it, and only figures that were counted."""

from huggingface_hub import ModelCardData

from lsprism.reports import CompressionReport, Plan

_TEXT = """---
{header}
---

# {title}

[{base}](https://huggingface.co/{base}) compressed with LS-PRISM: {method} at sparsity {sparsity:g}. Each weight matrix
of the decoder blocks is held as {forms}. Embeddings, output head and norms are unchanged.

| | this model | uncompressed |
|---|---|---|
| parameters kept (whole model) | {kept:,} | {parameters:,} |
| stored bytes, all layers | {stored:,} | {dense:,} |
| stored bytes, compressed layers | {layer_stored:,} | {layer_dense:,} |

Counted from the files; calibrated on {calibration}; {dtype}. Quality was not measured when this card was written.

## Load

```python
import lsprism.hf  # registers the format
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Without `lsprism` transformers refuses the packed tensors. The folder `lsprism/` holds the recipe, the plan, the report
of every layer, the environment, and the checksums of all files.
"""

_FORMS = {
    "sparse": "a bitmap and packed non-zeros",
    "low_rank": "two low-rank factors",
    "sparse_low_rank": "a sparse part (bitmap and packed non-zeros) plus two low-rank factors",
    "dense": "it was, dense",
}


def model_card(plan: Plan, report: CompressionReport, recipe: dict) -> str:
    base = recipe["base_model"]
    header = ModelCardData(
        base_model=base if "/" in base else None,
        base_model_relation="quantized" if "/" in base else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["ls-prism", "sparse", "low-rank", plan.method],
    )
    used = dict.fromkeys(layer.form for layer in report.layers)
    return _TEXT.format(
        header=header.to_yaml(),
        title=f"{base.rpartition('/')[2]}, sparsity {plan.sparsity:g}",
        base=base,
        method=plan.method,
        sparsity=plan.sparsity,
        forms=" or ".join(_FORMS[form] for form in used),
        kept=report.kept_parameters,
        parameters=report.model_parameters,
        stored=report.stored_bytes,
        dense=report.dense_stored_bytes,
        layer_stored=report.layer_stored_bytes,
        layer_dense=report.layer_dense_bytes,
        calibration=report.calibration,
        dtype=report.dtype,
    )
