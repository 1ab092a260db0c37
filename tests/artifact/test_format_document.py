"""The decoder in FORMAT.md reads real artifacts of every weight format."""

import json
from pathlib import Path

import pytest
import torch
from conftest import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import lsprism

ROOT = Path(__file__).parents[2]
COLUMNS = {"down_proj": 44}  # other layers: 32; 44 columns do not fill the last byte of a bitmap row
METHODS = {"wanda": "sparse", "svd": "low_rank", "hybrid": "sparse_low_rank"}


@pytest.fixture(scope="module")
def decoder() -> dict:
    """The names that the document's Python block defines."""
    text = (ROOT / "lsprism/artifact/FORMAT.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(compile(code, "FORMAT.md", "exec"), names)
    return names


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=COLUMNS["down_proj"],
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).to(request.param).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("values", ["float", "int8"])
@pytest.mark.parametrize("method", METHODS)
def test_the_decoder_of_the_document_reads_every_format(decoder, base, text_file, tmp_path, method, values):
    calibration = {"source": str(text_file), "samples": 4, "length": 32}
    settings = {"method": method, "values": values, "rank_share": 0.3, "calibration": calibration}
    lsprism.compress(str(base), tmp_path / "out", **settings)
    entry = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    tensors: dict = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        tensors |= decoder["read"](path)
    model = lsprism.load(tmp_path / "out").model
    forms = {module["form"] for module in entry["modules"].values()}  # hybrid may need no rank in some layers
    assert (entry["format"], len(entry["modules"])) == (1, 7) and METHODS[method] in forms
    for name, module in entry["modules"].items():
        assert module["values"] == values
        columns = COLUMNS.get(name.rpartition(".")[2], 32)
        decoded = torch.from_numpy(decoder["decode"](tensors, name, module["form"], columns))
        expected = model.get_submodule(name).form.to_dense()
        exact = expected.dtype == torch.float32 or (method, values) == ("wanda", "float")
        tolerance = 1e-6 if exact else 2**-6  # bfloat16 keeps 8 bits
        assert decoded.shape == expected.shape and decoded.abs().max() > 0
        atol = tolerance * decoded.abs().max().item()
        torch.testing.assert_close(decoded, expected.float(), rtol=tolerance, atol=atol)
