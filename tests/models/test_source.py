"""Every way to name a local model resolves, or is an error with one plain sentence. Hub models: see test_hub.py."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from lsprism.errors import SourceError
from lsprism.models.source import resolve


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to modify."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def configure(folder: Path, **changes) -> Path:
    """Change config.json; None removes the entry."""
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def refused(model_id, *args, **kwargs) -> SourceError:
    """The error: a complete sentence and a next step."""
    with pytest.raises(SourceError) as caught:
        resolve(str(model_id), *args, **kwargs)
    error = caught.value
    assert error.message.endswith(".") and "\n" not in error.message and error.hint and error.exit_code == 2
    return error


# Folders


def test_a_folder_resolves_to_itself(folder):
    source = resolve(str(folder))
    assert (source.kind, source.folder, source.base_model) == ("folder", folder, "model")
    assert source.model_id == str(folder) and source.revision == "" and not source.config_only


def test_a_relative_path_becomes_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve(".").folder == folder and resolve(".").base_model == "model"
    monkeypatch.chdir(folder.parent)
    assert resolve("model").folder == folder


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/model").folder == folder


def test_our_format_is_an_artifact(folder):
    assert resolve(str(folder)).kind == "folder"
    configure(folder, quantization_config={"quant_method": "ls_prism"})
    assert resolve(str(folder)).kind == "artifact"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~nowhere", "a/b/c", "nowhere.gguf"])
def test_a_path_that_does_not_exist(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub for a path"))
    assert "does not exist" in refused(name).message


def test_a_file_that_is_not_gguf(folder):
    assert "not a .gguf" in refused(folder / "model.safetensors").message


def test_a_revision_of_something_local(folder):
    assert "no revision 'v1'" in refused(folder, "v1").message
    assert "no revision 'v1'" in refused("demo", "v1").message


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder).message
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter" in refused(folder).message


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_broken_config(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "JSON" in refused(folder).message


def test_weights_only_as_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pytorch_model.bin" in error.message and "safetensors" in error.hint


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors" in refused(folder).message
    assert resolve(str(folder), need_weights=False).config_only


def test_a_shard_that_the_index_names_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks the file model-00002-of-00002.safetensors" in refused(folder).message
    shutil.copy(folder / shards["a"], folder / shards["b"])
    assert not resolve(str(folder)).config_only


def test_no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "no tokenizer" in refused(folder).message
    assert resolve(str(folder), need_weights=False).folder == folder


# Models that are not decoders


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertModel", "BertForSequenceClassification"])
def test_an_encoder(folder, architecture):
    error = refused(configure(folder, model_type="bert", architectures=[architecture]))
    assert architecture in error.message and "decoder-only" in error.hint


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra"])
@pytest.mark.parametrize("architectures", [None, ["RobertaLMHeadModel"]])
def test_an_encoder_by_its_type_alone(folder, kind, architectures):
    error = refused(configure(folder, model_type=kind, architectures=architectures))
    assert "is not a causal language model" in error.message and "decoder-only" in error.hint
    assert resolve(str(configure(folder, is_decoder=True))).kind == "folder", "it attends to previous tokens only"


def test_a_type_without_a_causal_class(folder):
    assert "vit" in refused(configure(folder, model_type="vit", architectures=None)).message


def test_an_encoder_decoder(folder):
    changes = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
    assert "encoder-decoder" in refused(configure(folder, **changes)).message


@pytest.mark.parametrize("kind", ["llamma", None])
def test_an_unknown_type(folder, kind):
    error = refused(configure(folder, model_type=kind))
    assert repr(kind) in error.message and "transformers" in error.message


def test_remote_code_is_never_run(folder):
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    auto_map = {"AutoModelForCausalLM": "modeling.Model", "AutoConfig": "modeling.Config"}
    assert "never run" in refused(configure(folder, model_type="own", auto_map=auto_map)).message
    # A supported model type does not need the remote code.
    assert resolve(str(configure(folder, model_type="llama"))).kind == "folder"


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gpt2", "GPT2LMHeadModel"), ("qwen3", "Qwen3ForCausalLM"), ("gemma3", "Gemma3ForConditionalGeneration")],
)
def test_decoders_with_any_class_name_are_accepted(folder, kind, architecture):
    assert resolve(str(configure(folder, model_type=kind, architectures=[architecture]))).kind == "folder"
