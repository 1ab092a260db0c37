"""An artifact is a transformers model: every loading function works, and mismatches are errors."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, pipeline

import lsprism
import lsprism.hf  # noqa: F401 - what is tested
from lsprism.allocation.packed_sizes import count_packed_bytes
from lsprism.errors import DamagedError
from lsprism.packed.modules import PrismLinear
from lsprism.records.model_plan import LayerBudget

IDS = torch.arange(3, 21).unsqueeze(0)
CASES = {  # method, tied embeddings, biases
    "sparse": ("wanda", False, False),
    "sparse tied": ("wanda", True, True),
    "low rank": ("svd", False, True),
    "low rank tied": ("svd", True, False),
    "both": ("hybrid", False, False),
    "both tied": ("hybrid", True, True),
}
FORMS = {"wanda": "sparse", "svd": "low_rank", "hybrid": "sparse_low_rank"}


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory, text_file) -> dict[str, Path]:
    """One artifact per case, each with `.plan` and `.report` as JSON."""
    root = tmp_path_factory.mktemp("artifacts")
    made = {}
    for case, (method, tied, bias) in CASES.items():
        base = make_model(root / f"base {case}", tied=tied, bias=bias)
        made[case] = root / case
        settings = {"method": method, "sparsity": 0.5, "allocation": "uniform", "calibration": calibration(text_file)}
        plan = lsprism.inspect(str(base), **settings)
        report = lsprism.compress(str(base), made[case], **settings)
        (root / f"{case}.plan").write_text(plan.model_dump_json())
        (root / f"{case}.report").write_text(report.model_dump_json())
    return made


@pytest.fixture(params=CASES)
def artifact(request, artifacts) -> Path:
    return artifacts[request.param]


@pytest.fixture
def spoiled(artifacts, tmp_path):
    """A copy of the artifact of a case, to modify."""
    return lambda case="both": Path(shutil.copytree(artifacts[case], tmp_path / "spoiled"))


def calibration(text_file: Path) -> dict:
    return {"source": str(text_file), "samples": 8, "length": 32}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def bytes_in_memory(model) -> int:
    """Bytes of all parameters and buffers; shared memory counts once."""
    return sum({t.data_ptr(): t.nbytes for t in [*model.parameters(), *model.buffers()]}.values())


# Loading


def test_plain_from_pretrained_is_our_own_loader(artifact):
    loaded = lsprism.load(str(artifact))
    model = AutoModelForCausalLM.from_pretrained(artifact)
    assert torch.equal(logits(model), logits(loaded.model))
    assert not model.training and model.is_quantized and model.hf_quantizer.is_serializable()
    assert model.hf_quantizer.is_compileable and not model.hf_quantizer.is_trainable


def test_weights_are_packed_in_memory(artifacts):
    for case, (method, _, bias) in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(artifacts[case])
        packed = [module for module in model.modules() if isinstance(module, PrismLinear)]
        assert len(packed) == 14 and {module.form_name for module in packed} == {FORMS[method]}
        assert all((module.bias is not None) == bias for module in packed)
        plan = json.loads(artifacts[case].with_suffix(".plan").read_text())
        assert bytes_in_memory(model) == plan["resident_bytes"], case


def test_device_map_and_dtype(artifact):
    plain = AutoModelForCausalLM.from_pretrained(artifact)
    mapped = AutoModelForCausalLM.from_pretrained(artifact, device_map="cpu")
    assert torch.equal(logits(mapped), logits(plain))
    precise = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.float32)
    assert {p.dtype for p in precise.parameters()} == {torch.float32}
    assert {m.bitmap.dtype for m in precise.modules() if hasattr(m, "bitmap")} <= {torch.uint8}
    torch.testing.assert_close(logits(precise), logits(plain).float(), atol=0.1, rtol=0.05)
    with torch.no_grad():
        for mine, theirs in zip(precise.parameters(), plain.parameters(), strict=True):
            assert torch.equal(mine, theirs.float())


def assert_greedy(model, answer):
    """In one forward pass, each token of the output is the most likely one after those before it, except for ties."""
    with torch.no_grad():
        expected = model(answer).logits[0, IDS.shape[1] - 1 : -1].float()
    said = expected.gather(1, answer[0, IDS.shape[1] :, None])[:, 0]
    assert (expected.amax(1) - said <= 4 * torch.finfo(model.dtype).eps * expected.abs().amax(1)).all()


def test_generate_and_pipeline(artifact):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    for cache in (None, "static"):
        answer = model.generate(IDS, max_new_tokens=5, do_sample=False, cache_implementation=cache)
        assert answer.shape[1] > IDS.shape[1]
        assert_greedy(model, answer)
    write = pipeline("text-generation", model=str(artifact))
    text = write("red river stone", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("red river stone") and isinstance(write.model, LlamaForCausalLM) and write.model.is_quantized


def test_the_base_class_loads_and_saves_it_too(artifact, tmp_path):
    model = AutoModel.from_pretrained(artifact)
    whole = AutoModelForCausalLM.from_pretrained(artifact)
    with torch.no_grad():
        hidden = model(IDS).last_hidden_state
        assert torch.equal(hidden, whole.model(IDS).last_hidden_state)
        model.save_pretrained(tmp_path / "again")
        assert torch.equal(AutoModel.from_pretrained(tmp_path / "again")(IDS).last_hidden_state, hidden)


def test_a_saved_artifact_is_identical(artifact, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    model.save_pretrained(tmp_path / "again", max_shard_size="10KB")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model))
    before, after = (json.loads((f / "config.json").read_text()) for f in (artifact, tmp_path / "again"))
    assert before["quantization_config"] == after["quantization_config"]
    assert again.state_dict().keys() == model.state_dict().keys()


def test_copies_and_state_dicts(artifact):
    model = AutoModelForCausalLM.from_pretrained(artifact)
    expected = logits(model)
    twin = copy.deepcopy(model)
    other = AutoModelForCausalLM.from_pretrained(artifact)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert not torch.equal(logits(other), expected)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(other), expected) and torch.equal(logits(twin), expected)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(logits(model), expected), "the copy shares memory with the model"


def test_dequantize_gives_a_plain_model(artifact, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.float32)
    expected = logits(model)
    plain = model.dequantize()
    assert type(plain.model.layers[0].mlp.up_proj) is torch.nn.Linear and not plain.is_quantized
    torch.testing.assert_close(logits(plain), expected, atol=1e-4, rtol=1e-4)
    plain.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    again, info = LlamaForCausalLM.from_pretrained(tmp_path / "dense", output_loading_info=True)
    assert torch.equal(logits(again), logits(plain)) and not info["missing_keys"] and not info["unexpected_keys"]


def test_dequantize_into_another_dtype(artifacts):
    model = AutoModelForCausalLM.from_pretrained(artifacts["both"])
    frequencies = model.model.rotary_emb.inv_freq.clone()
    plain = model.dequantize(torch.float16)
    assert {p.dtype for p in plain.parameters()} == {torch.float16} and logits(plain).dtype == torch.float16
    assert torch.equal(plain.model.rotary_emb.inv_freq, frequencies), "rotary frequencies must not be rounded"


@pytest.mark.parametrize("method", ["wanda", "svd", "hybrid"])
def test_a_class_that_stores_its_weights_transposed(method, tmp_path, text_file):
    """GPT-2 has Conv1D: a transposed square weight would load without an error and give nonsense."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = {"method": method, "sparsity": 0.5, "calibration": calibration(text_file)}
    lsprism.compress(str(tmp_path / "base"), tmp_path / "packed", **settings)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    expected = logits(model)
    assert torch.equal(logits(lsprism.load(str(tmp_path / "packed")).model), expected)
    model.dequantize().save_pretrained(tmp_path / "dense")
    dense = GPT2LMHeadModel.from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(logits(dense), expected, atol=1e-4, rtol=1e-4)
    lsprism.export(str(tmp_path / "packed"), tmp_path / "exported")
    exported = GPT2LMHeadModel.from_pretrained(tmp_path / "exported")
    torch.testing.assert_close(logits(exported), expected, atol=1e-4, rtol=1e-4)


# Errors


@pytest.mark.slow
def test_without_lsprism_loading_fails_for_every_format(artifacts, tmp_path):
    """In a process that cannot import LS-PRISM, neither classes nor pipeline may run with random weights; a dense copy
    runs and gives the same logits as here."""
    code = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM, pipeline
dense, answer, *packed = sys.argv[1:]
torch.save(AutoModelForCausalLM.from_pretrained(dense)(torch.arange(3, 21).unsqueeze(0)).logits.detach(), answer)
doors = (AutoModelForCausalLM.from_pretrained, AutoModel.from_pretrained, lambda p: pipeline("text-generation", p))
for path in packed:
    for n, door in enumerate(doors):
        try:
            door(path)
        except Exception as error:
            print("refused", type(error).__name__)
        else:
            print("LOADED", path, n)
assert not [name for name in sys.modules if name.startswith("lsprism")]
"""
    dense, answer = lsprism.export(str(artifacts["both"]), tmp_path / "dense"), tmp_path / "answer"
    command = [sys.executable, "-I", "-c", code, *map(str, (dense, answer, *artifacts.values()))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(answer, weights_only=True), logits(LlamaForCausalLM.from_pretrained(dense)))
    assert "LOADED" not in done.stdout and done.stdout.count("refused") == 3 * len(CASES)


def test_no_packed_tensor_has_the_dense_shape():
    """Loading fails because of the shape of `weight`: a left factor [rows, rank] must never be [rows, columns]."""
    for rows in range(1, 40):
        for columns in range(1, 40):
            for rank in range(1, max(rows, columns) + 1):
                budget = LayerBudget(kept=rank * (rows + columns), rank=rank)
                pays = count_packed_bytes("low_rank", (rows, columns), budget, 2) < rows * columns * 2
                assert not pays or rank < min(rows, columns)


def test_layers_stay_dense_if_low_rank_factors_save_nothing(tiny_folder, text_file, tmp_path):
    settings = {"method": "svd", "sparsity": 0.01, "calibration": calibration(text_file)}
    report = lsprism.compress(str(tiny_folder), tmp_path / "out", **settings)
    assert all(layer.rank < min(layer.rows, layer.columns) for layer in report.layers)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    packed = config["quantization_config"]["modules"]
    assert set(packed) == {layer.name for layer in report.layers if layer.form != "dense"}


def refused(folder: Path) -> str:
    with pytest.raises(DamagedError) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert caught.value.hint and caught.value.message.endswith(".")
    return caught.value.message


def edit_weights(folder: Path, change) -> None:
    """Apply `change` to the tensors of the last block's file and update the index."""
    path = max(folder.glob("model-*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    weight_map = {key: file for key, file in content["weight_map"].items() if file != path.name}
    content["weight_map"] = weight_map | dict.fromkeys(tensors, path.name)
    index.write_text(json.dumps(content))


UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize("part", ["weight", "bitmap", "left", "right"])
def test_a_missing_tensor(spoiled, part):
    folder = spoiled()
    edit_weights(folder, lambda tensors: tensors.pop(f"{UP}.{part}"))
    assert f"{UP}.{part}" in refused(folder)


def test_a_missing_bias(spoiled):
    folder = spoiled("both tied")
    edit_weights(folder, lambda tensors: tensors.pop(f"{UP}.bias"))
    assert f"{UP}.bias" in refused(folder)


def test_an_unexpected_tensor(spoiled):
    folder = spoiled("sparse")
    edit_weights(folder, lambda tensors: tensors.update({f"{UP}.left": torch.zeros(48, 1)}))
    assert f"{UP}.left" in refused(folder)


def test_a_tensor_of_another_shape_or_kind(spoiled):
    folder = spoiled("sparse")
    edit_weights(folder, lambda tensors: tensors.update({f"{UP}.weight": tensors[f"{UP}.weight"][:-1].clone()}))
    assert f"{UP}.weight" in refused(folder)
    shutil.rmtree(folder)
    folder = spoiled("sparse")
    edit_weights(folder, lambda tensors: tensors.update({f"{UP}.bitmap": tensors[f"{UP}.bitmap"].float()}))
    assert f"{UP}.bitmap" in refused(folder)


def test_a_bitmap_that_does_not_match_its_values(spoiled):
    """One bit too many and a kernel would read beyond the values."""
    folder = spoiled("sparse")

    def flip(tensors):
        tensors[f"{UP}.bitmap"][3, 1] ^= 4

    edit_weights(folder, flip)
    assert f"{UP}.bitmap" in refused(folder)


def test_a_truncated_file(spoiled):
    folder = spoiled()
    path = max(folder.glob("model-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert path.name in refused(folder)


@pytest.mark.parametrize("case", ["sparse", "low rank", "both"])
@pytest.mark.parametrize("key, value", [("kept", 700), ("kept", -1), ("rank", 2), ("rank", -1), ("form", "dense")])
def test_an_edited_entry(spoiled, case, key, value):
    folder = spoiled(case)
    edit_config(folder, lambda quantization: quantization["modules"][UP].update({key: value}))
    assert UP in refused(folder)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda q: q.update(format=2), "format 2"),
        (lambda q: q.pop("format"), "format number"),
        (lambda q: q.pop("modules"), "modules"),
        (lambda q: q["modules"].update({"model.norm": q["modules"][UP]}), "model.norm"),
        (lambda q: q["modules"].update({"model.nowhere": q["modules"][UP]}), "model.nowhere"),
        (lambda q: q["modules"][UP].pop("kept"), UP),
        (lambda q: q["modules"].update({UP: None}), UP),
    ],
)
def test_an_edited_config(spoiled, change, named):
    folder = spoiled()
    edit_config(folder, change)
    assert named in refused(folder)


def test_transformers_refuses_a_removed_entry(spoiled):
    folder = spoiled()
    edit_config(folder, lambda quantization: quantization["modules"].pop(UP))
    with pytest.raises(RuntimeError):
        AutoModelForCausalLM.from_pretrained(folder)


def edit_config(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config["quantization_config"])
    path.write_text(json.dumps(config))


@pytest.mark.slow
def test_the_demo_model(tmp_path):
    settings = {"method": "wanda", "sparsity": 0.5, "calibration": {"samples": 4, "length": 128}}
    plan = lsprism.inspect("demo", **settings)
    report = lsprism.compress("demo", tmp_path / "out", **settings)
    assert report.layer_stored_bytes <= 0.57 * report.layer_dense_bytes
    assert (
        report.stored_bytes
        == plan.stored_bytes
        == sum(p.stat().st_size for p in report.save_path.glob("*.safetensors"))
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert bytes_in_memory(plain) == plan.resident_bytes
    assert torch.equal(logits(plain), logits(lsprism.load(str(tmp_path / "out")).model))
    lsprism.export(str(tmp_path / "out"), tmp_path / "dense")
    dense = LlamaForCausalLM.from_pretrained(tmp_path / "dense")
    assert torch.equal(logits(dense), logits(plain)), "a dense copy of a sparse layer is the same matrix"
