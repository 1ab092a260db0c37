"""A dense copy is a plain transformers folder with the output of its source, complete or absent, made file by file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_model
from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import lsprism
from lsprism.api import stream_export
from lsprism.artifact import export as module
from lsprism.artifact.manifest import MANIFEST, RECIPE, build_manifest, write_json
from lsprism.errors import DamagedError, DiskError, ResourceError, SourceError, TargetError
from lsprism.events import Progress, Stage
from lsprism.models.tensor_files import INDEX, SINGLE

IDS = torch.arange(3, 21).unsqueeze(0)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, text_file) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("export")
    base = make_model(root / "base", tied=True, bias=True)
    calibration = {"source": str(text_file), "samples": 8, "length": 32}
    for method in ("wanda", "svd", "hybrid"):
        lsprism.compress(str(base), root / method, method=method, calibration=calibration)
    return {name: root / name for name in ("base", "wanda", "svd", "hybrid")}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS.to(model.device)).logits


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def same_tensors(one: Path, other: Path) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


# Content


@pytest.mark.parametrize("method", ["wanda", "svd", "hybrid"])
def test_an_artifact_becomes_a_dense_model(artifacts, method, tmp_path):
    folder = lsprism.export(str(artifacts[method]), tmp_path / "dense")
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    dense, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    packed = lsprism.load(str(artifacts[method]), device="cpu").model
    assert all(p.dtype == torch.bfloat16 for p in dense.parameters())
    if method == "wanda":
        assert torch.equal(logits(dense), logits(packed)), "equal matrices give equal logits"
    for name, _, module_ in ((n, m, packed.get_submodule(n)) for n, m in dense.named_modules() if n.endswith("proj")):
        assert torch.equal(dense.get_submodule(name).weight, module_.form.to_dense())
        assert torch.equal(dense.get_submodule(name).bias, module_.bias)
    torch.testing.assert_close(logits(dense), logits(packed), atol=0.15, rtol=0.05)
    assert set(tensors(folder)) == set(tensors(artifacts["base"]))


def test_removed_weights_are_zeros(artifacts, tmp_path):
    folder = lsprism.export(str(artifacts["wanda"]), tmp_path / "dense")
    before, after = tensors(artifacts["base"]), tensors(folder)
    for name, weight in after.items():
        if "proj.weight" in name:
            assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.02)
            assert torch.equal(weight[weight != 0], before[name][weight != 0])
        else:
            assert torch.equal(weight, before[name])


def test_a_dense_source_is_copied_bit_for_bit(tiny_folder, tmp_path):
    folder = lsprism.export(str(tiny_folder), tmp_path / "copy")
    assert same_tensors(tiny_folder, folder)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    model = LlamaForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(model), logits(LlamaForCausalLM.from_pretrained(tiny_folder)))


def test_tokenizer_and_chat_template_are_copied(artifacts, tmp_path):
    folder = lsprism.export(str(artifacts["hybrid"]), tmp_path / "dense")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (artifacts["base"], folder))
    talk = [{"role": "user", "content": "red river"}]
    assert before.apply_chat_template(talk) == after.apply_chat_template(talk)
    assert (folder / "generation_config.json").is_file()
    assert not (folder / "lsprism").exists()


def test_tensor_names_of_an_older_checkpoint_are_kept(tmp_path):
    """GPT-2's tensors lack the base prefix, which transformers supports."""
    config = GPT2Config(vocab_size=24, n_positions=64, n_embd=32, n_layer=1, n_head=4)
    torch.manual_seed(0)
    make_model(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    folder = lsprism.export(str(tmp_path / "base"), tmp_path / "copy")
    assert same_tensors(tmp_path / "base", folder)


# Files


def test_files_are_split_at_the_limit(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 10_000)
    for source in ("base", "hybrid"):
        folder = lsprism.export(str(artifacts[source]), tmp_path / source)
        files = sorted(folder.glob("model-*.safetensors"))
        assert len(files) > 3 and all(sum(t.nbytes for t in load_file(path).values()) <= 10_000 for path in files)
        assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert index == {name: path.name for path in files for name in load_file(path)}
        LlamaForCausalLM.from_pretrained(folder)
    assert same_tensors(artifacts["base"], tmp_path / "base")


def test_a_tensor_above_the_limit_has_its_own_file(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    folder = lsprism.export(str(artifacts["base"]), tmp_path / "copy")
    assert len(list(folder.glob("*.safetensors"))) == len(tensors(artifacts["base"]))
    assert same_tensors(artifacts["base"], folder)


def test_one_file_at_a_time_is_in_memory(artifacts, tmp_path, monkeypatch):
    held = []
    real = module.write_shard

    def spy(path, content):
        held.append(sum(t.nbytes for t in content.values()))
        real(path, content)

    monkeypatch.setattr(module, "write_shard", spy)
    folder = lsprism.export(str(artifacts["wanda"]), tmp_path / "dense")
    assert held == [sum(t.nbytes for t in load_file(path).values()) for path in sorted(folder.glob("*.safetensors"))]
    assert len(held) == 3 and max(held) < sum(held) / 2


def test_the_events_report_progress(artifacts, tmp_path):
    stage, *steps = stream_export(str(artifacts["wanda"]), tmp_path / "dense")
    assert isinstance(stage, Stage) and all(isinstance(step, Progress) for step in steps)
    assert [step.fraction for step in steps] == [pytest.approx(n / 3) for n in (1, 2, 3)]


# Errors leave nothing behind


def only(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize("taken", ["folder", "file", "link"])
def test_a_target_that_exists(tiny_folder, tmp_path, taken):
    target = tmp_path / "out"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to("nowhere")}[taken]()
    with pytest.raises(TargetError, match="already exists") as caught:
        lsprism.export(str(tiny_folder), target)
    assert caught.value.hint and only(tmp_path, "out")


def test_a_damaged_artifact(artifacts, tmp_path):
    folder = Path(shutil.copytree(artifacts["svd"], tmp_path / "artifact"))
    path = max(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedError, match=path.name):
        lsprism.export(str(folder), tmp_path / "dense")
    assert only(tmp_path, "artifact")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (None, "should be a valid object"), ({"form": "sparse", "kept": "7", "rank": 0}, 'kept is "7"'),
        ({"form": "sparse", "kept": 7, "rank": 0}, "does not match its entry in config.json"),
        ({"form": "spare", "kept": 7, "rank": 0}, "does not match its entry in config.json"),
    ],
)  # fmt: skip
def test_an_invalid_entry_is_named(artifacts, tmp_path, entry, said):
    folder = Path(shutil.copytree(artifacts["wanda"], tmp_path / "artifact"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["modules"]["model.layers.0.mlp.up_proj"] = entry
    (folder / "config.json").write_text(json.dumps(config))
    write_json(folder / MANIFEST, build_manifest(folder))  # with valid checksums
    with pytest.raises(DamagedError, match=f"model.layers.0.mlp.up_proj.*{said}"):
        lsprism.export(str(folder), tmp_path / "dense")
    assert only(tmp_path, "artifact")


@pytest.mark.parametrize("recipe", ["[]", "[" * 100000, '{"method": "wanda"}', '{"sparsity": "0.5"}'])
def test_a_malformed_recipe_is_left_out_of_the_model_card(artifacts, tmp_path, recipe):
    folder = Path(shutil.copytree(artifacts["wanda"], tmp_path / "artifact"))
    (folder / RECIPE).write_text(recipe)
    write_json(folder / MANIFEST, build_manifest(folder))
    card = (lsprism.export(str(folder), tmp_path / "dense") / "README.md").read_text()
    assert "How the compressed model was made" not in card


def test_of_two_tensors_with_one_name_the_loaded_one_is_copied(tiny_folder, tmp_path):
    folder, norm = Path(shutil.copytree(tiny_folder, tmp_path / "twice")), "model.norm.weight"
    held = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    parts = {"a.safetensors": {norm: held[norm] * 3}, "b.safetensors": held}
    for file, part in parts.items():
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(held, "b.safetensors") | {norm: "a.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    assert same_tensors(lsprism.export(str(folder), tmp_path / "dense"), tiny_folder)
    loaded = LlamaForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded.model.norm.weight, held[norm])


def test_a_quantized_source_is_an_error(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "gptq"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(SourceError, match="gptq"):
        lsprism.export(str(folder), tmp_path / "dense")
    assert only(tmp_path, "gptq")


def test_too_little_disk_space_is_an_error(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ResourceError, match="GB are free"):
        lsprism.export(str(tiny_folder), tmp_path / "deep" / "out")
    assert only(tmp_path)


def test_a_disk_that_fills_up_leaves_nothing(artifacts, tmp_path, monkeypatch):
    real = module.write_shard

    def full(path, content):
        if "00002" in path.name:
            raise DiskError("the disk is full.")
        real(path, content)

    monkeypatch.setattr(module, "write_shard", full)
    with pytest.raises(DiskError):
        lsprism.export(str(artifacts["wanda"]), tmp_path / "dense")
    assert only(tmp_path)


def test_a_stopped_export_leaves_nothing(artifacts, tmp_path):
    events = stream_export(str(artifacts["wanda"]), tmp_path / "dense")
    assert [type(next(events)) for _ in range(2)] == [Stage, Progress]
    assert (tmp_path / "dense.export").is_dir() and not (tmp_path / "dense").exists()
    events.close()
    assert only(tmp_path)


def test_remains_of_a_killed_export_are_deleted(tiny_folder, tmp_path):
    left = tmp_path / "out.export"
    left.mkdir()
    (left / module.UNFINISHED).touch()
    (left / "model-00001-of-00009.safetensors").write_bytes(b"half")
    lsprism.export(str(tiny_folder), tmp_path / "out")
    assert only(tmp_path, "out") and not (tmp_path / "out" / "model-00001-of-00009.safetensors").exists()
    assert not (tmp_path / "out" / module.UNFINISHED).exists()


def test_a_folder_of_the_user_is_not_deleted(tiny_folder, tmp_path):
    mine = tmp_path / "out.export"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(TargetError, match="not an unfinished export"):
        lsprism.export(str(tiny_folder), tmp_path / "out")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_two_exports_to_one_target(tiny_folder, tmp_path):
    with FileLock(tmp_path / "out.lock"), pytest.raises(TargetError, match="writing"):
        lsprism.export(str(tiny_folder), tmp_path / "out")
