"""Model cards of artifacts and dense copies: method, settings, sizes, how to load and how to reproduce."""

import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from lsprism.arguments import flatten, to_arguments
from lsprism.artifact.recipe import Recipe
from lsprism.artifact.sidecar_files import BUILT_WITH, License
from lsprism.records.compression import CompressionReport
from lsprism.records.model_plan import Plan
from lsprism.specs import PlanSpec

_COMPRESSED = """---
{header}
---

# {title}

{base} compressed with LS-PRISM: method {method}, sparsity {sparsity:g}. Each linear layer of the decoder blocks is
stored as {forms}. Embeddings, LM head and norms are unchanged.

| | this model | uncompressed |
|---|---|---|
| parameters (whole model) | {kept:,} | {parameters:,} |
| bytes on disk, whole model | {stored:,} | {dense:,} |
| bytes on disk, compressed layers | {layer_stored:,} | {layer_dense:,} |
{errors}
Calibrated on {calibration}; weights in {dtype}. Perplexity and task scores were not measured when this model card was
written.

## Load

```python
import lsprism.hf  # registers the format
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Without the import of `lsprism.hf`, loading fails with an error. The folder `lsprism/` holds the recipe, the plan, the
report of every layer, the environment, and the checksums of all files.

## Reproduce

{command}
{license}"""

_DENSE = """---
{header}
---

# {title}

{origin}

All weights are stored dense, so that transformers can load this folder without LS-PRISM:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Perplexity and task scores were not measured when this model card was written.
{made}{license}"""

_MULTIPLIED_OUT = """{base} compressed with LS-PRISM (method {method}, sparsity {sparsity:g}) and converted to dense
weights: removed weights are stored as zeros, low-rank factors as their product. The output is that of the compressed
model, but **this copy is as large as the uncompressed model, on disk and in memory**."""

_FORMS = {
    "sparse": "non-zero values and a bitmap",
    "low_rank": "two low-rank factors",
    "sparse_low_rank": "a sparse part (non-zero values and a bitmap) plus two low-rank factors",
    "dense": "a dense matrix, unchanged",
}
_TEXTS = (".txt", ".jsonl", ".parquet")


def render_model_card(plan: Plan, report: CompressionReport, recipe: Recipe, license_info: License) -> str:
    """Return the README.md of an artifact."""
    base = recipe.base_model
    used = dict.fromkeys(layer.form for layer in report.layers)
    return _COMPRESSED.format(
        header=_render_header(base, license_info, ["ls-prism", "sparse", "low-rank", plan.method]),
        title=f"{license_info.suggest_name(base)}, sparsity {plan.sparsity:g}",
        base=_format_link(base),
        method=plan.method,
        sparsity=plan.sparsity,
        forms=" or as ".join(_FORMS[form] for form in used),
        kept=report.kept_parameters,
        parameters=report.model_parameters,
        stored=report.stored_bytes,
        dense=report.dense_stored_bytes,
        layer_stored=report.layer_stored_bytes,
        layer_dense=report.layer_dense_bytes,
        errors=_render_errors(report),
        calibration=report.calibration,
        dtype=report.dtype,
        command=_format_command(recipe),
        license=_render_license(license_info),
    )


def render_dense_card(base: str, recipe: Recipe | None, license_info: License) -> str:
    """Return the README.md of a dense copy; `recipe`: that of the exported artifact, None for a dense source."""
    title = f"{license_info.suggest_name(base)}, dense"
    origin = f"A dense copy of {_format_link(base)}, written by LS-PRISM."
    made = ""
    tags = ["ls-prism"]
    if recipe:
        title = f"{license_info.suggest_name(base)}, sparsity {recipe.sparsity:g}, dense"
        origin = _MULTIPLIED_OUT.format(base=_format_link(base), method=recipe.method, sparsity=recipe.sparsity)
        made = f"\n## How the compressed model was made\n\n{_format_command(recipe)}\n"
        tags.append(recipe.method)
    header = _render_header(base, license_info, tags)
    return _DENSE.format(header=header, title=title, origin=origin, made=made, license=_render_license(license_info))


def _render_header(base: str, license_info: License, tags: list[str]) -> str:
    on_hub = "/" in base
    fields: dict[str, Any] = {**license_info.fields}
    data = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation="quantized" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        **fields,
    )
    return data.to_yaml()


def _format_link(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})" if "/" in base else base


def _render_errors(report: CompressionReport) -> str:
    layers = [layer for layer in report.layers if layer.form != "dense"]
    if not layers:
        return ""
    worst = max(layers, key=lambda layer: layer.error)
    mean = sum(layer.error for layer in layers) / len(layers)
    return (
        f"\nRelative output error of the layers, `||(W - W')X|| / ||WX||` on calibration tokens: mean {mean:.3f}, "
        f"maximum {worst.error:.3f} (`{worst.name}`).\n"
    )


def _format_command(recipe: Recipe) -> str:
    """The command line with every setting of the recipe, also where it is the default today."""
    options = map(shlex.join, to_arguments(_settings(recipe)))
    lines = " \\\n    ".join(["python -m lsprism compress", *options, "--save-path OUT"])
    return f"```sh\n{lines}\n```\n\nMade with LS-PRISM {recipe.version}."


def _settings(recipe: Recipe) -> dict:
    """The recipe's settings; of local files only the name."""
    options = recipe.get_options()
    settings = flatten({name: options.get(name) for name in PlanSpec.model_fields})
    for name, value in settings.items():
        local = name == "model_id" and value != recipe.base_model and value != "demo"
        if local or (name == "source" and str(value).endswith(_TEXTS)):
            settings[name] = Path(value).name
    return {name: value for name, value in settings.items() if value != ""}


def _render_license(license_info: License) -> str:
    if license_info.llama:
        return f"\n## License\n\n**{BUILT_WITH}.** {license_info.notice}\n"
    name = license_info.fields.get("license_name") or license_info.fields.get("license")
    if name:
        return f"\n## License\n\nSame as the base model: {name}.\n"
    return "\n## License\n\nSame as the base model; see its model card.\n"
