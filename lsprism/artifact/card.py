"""The model card: what was done to which model, how to do it again and how to load it; only figures that were counted
or measured."""

import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from lsprism.arguments import arguments, flatten
from lsprism.artifact.companions import BUILT_WITH, Licence
from lsprism.old_names import with_current_names
from lsprism.reports import CompressionReport, Plan
from lsprism.specs import PlanSpec

_COMPRESSED = """---
{header}
---

# {title}

{base} compressed with LS-PRISM: {method} at sparsity {sparsity:g}. Each weight matrix of the decoder blocks is held as
{forms}. Embeddings, output head and norms are unchanged.

| | this model | uncompressed |
|---|---|---|
| parameters kept (whole model) | {kept:,} | {parameters:,} |
| stored bytes, all layers | {stored:,} | {dense:,} |
| stored bytes, compressed layers | {layer_stored:,} | {layer_dense:,} |
{errors}
Bytes are counted from the files. Calibrated on {calibration}; {dtype}. Perplexity and tasks were not measured when this
card was written.

## Load

```python
import lsprism.hf  # registers the format
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Without `lsprism` transformers refuses the packed tensors. The folder `lsprism/` holds the recipe, the plan, the report
of every layer, the environment, and the checksums of all files.

## Make it again

{command}
{licence}"""

_DENSE = """---
{header}
---

# {title}

{origin}

Every weight is stored densely, so that transformers loads this folder by itself:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

Perplexity and tasks were not measured when this card was written.
{made}{licence}"""

_MULTIPLIED_OUT = """{base} compressed with LS-PRISM ({method} at sparsity {sparsity:g}) and multiplied out again:
removed weights are stored as zeros and low-rank factors as their product. It answers as the compressed model does, but
**it is as large as the uncompressed one, on disk and in memory**."""

_FORMS = {
    "sparse": "a bitmap and packed non-zeros",
    "low_rank": "two low-rank factors",
    "sparse_low_rank": "a sparse part (bitmap and packed non-zeros) plus two low-rank factors",
    "dense": "it was, dense",
}
_TEXTS = (".txt", ".jsonl", ".parquet")


def model_card(plan: Plan, report: CompressionReport, recipe: dict, licence: Licence) -> str:
    """README.md of an artifact."""
    base = recipe["base_model"]
    used = dict.fromkeys(layer.form for layer in report.layers)
    return _COMPRESSED.format(
        header=_header(base, licence, ["ls-prism", "sparse", "low-rank", plan.method]),
        title=f"{licence.name(base)}, sparsity {plan.sparsity:g}",
        base=_link(base),
        method=plan.method,
        sparsity=plan.sparsity,
        forms=" or as ".join(_FORMS[form] for form in used),
        kept=report.kept_parameters,
        parameters=report.model_parameters,
        stored=report.stored_bytes,
        dense=report.dense_stored_bytes,
        layer_stored=report.layer_stored_bytes,
        layer_dense=report.layer_dense_bytes,
        errors=_errors(report),
        calibration=report.calibration,
        dtype=report.dtype,
        command=_command(recipe),
        licence=_licence(licence),
    )


def dense_card(base: str, recipe: dict | None, licence: Licence) -> str:
    """README.md of a dense copy; `recipe` is that of the artifact it was made of, None for a copy of a dense model."""
    title, origin, made = f"{licence.name(base)}, dense", f"A dense copy of {_link(base)}, by LS-PRISM.", ""
    tags = ["ls-prism"]
    if recipe:
        title = f"{licence.name(base)}, sparsity {recipe['sparsity']:g}, dense"
        origin = _MULTIPLIED_OUT.format(base=_link(base), method=recipe["method"], sparsity=recipe["sparsity"])
        made = f"\n## How the compressed model was made\n\n{_command(recipe)}\n"
        tags.append(recipe["method"])
    header = _header(base, licence, tags)
    return _DENSE.format(header=header, title=title, origin=origin, made=made, licence=_licence(licence))


def _header(base: str, licence: Licence, tags: list[str]) -> str:
    on_hub = "/" in base
    fields: dict[str, Any] = {**licence.fields}
    data = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation="quantized" if on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        **fields,
    )
    return data.to_yaml()


def _link(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})" if "/" in base else base


def _errors(report: CompressionReport) -> str:
    layers = [layer for layer in report.layers if layer.form != "dense"]
    if not layers:
        return ""
    worst = max(layers, key=lambda layer: layer.error)
    mean = sum(layer.error for layer in layers) / len(layers)
    return (
        f"\nOutput error of a layer, `||(W - W')X|| / ||WX||` on calibration tokens: {mean:.3f} on average, "
        f"{worst.error:.3f} at most (`{worst.name}`).\n"
    )


def _command(recipe: dict) -> str:
    """The command line with every setting of the recipe, also where it is the default today."""
    options = map(shlex.join, arguments(_settings(recipe)))
    lines = " \\\n    ".join(["python -m lsprism compress", *options, "--save-path OUT"])
    return f"```sh\n{lines}\n```\n\nMade with LS-PRISM {recipe['lsprism']}."


def _settings(recipe: dict) -> dict:
    """The recipe's settings; of local files only the name."""
    recipe = with_current_names(recipe)
    settings = flatten({name: recipe.get(name) for name in PlanSpec.model_fields})
    for name, value in settings.items():
        local = name == "model_id" and value != recipe["base_model"] and value != "demo"
        if local or (name == "source" and str(value).endswith(_TEXTS)):
            settings[name] = Path(value).name
    return {name: value for name, value in settings.items() if value != ""}


def _licence(licence: Licence) -> str:
    if licence.llama:
        return f"\n## Licence\n\n**{BUILT_WITH}.** {licence.notice}\n"
    name = licence.fields.get("license_name") or licence.fields.get("license")
    if name:
        return f"\n## Licence\n\nThat of the base model: {name}.\n"
    return "\n## Licence\n\nThat of the base model; see its card.\n"
