"""The model card has only counted or measured values, the license, and a command that reproduces the run."""

import shlex
from pathlib import Path

import pytest
from conftest import make_model
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects

import lsprism
from lsprism.artifact.sidecar_files import License, read_card, read_license
from lsprism.cli.main import main
from lsprism.errors import WorkError
from lsprism.models.hub import COPIES, WORDS
from lsprism.specs import CompressSpec, validate

NOTICE = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright (c) Meta Platforms, Inc. "
    "All Rights Reserved."
)


def write_readme(folder: Path, front: str, body: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{front}\n---\n{body}")
    return folder


def base(folder: Path, front: str = "") -> Path:
    """A model folder with this front matter in its model card, license texts, and one private file."""
    make_model(folder)
    for name in ("LICENSE", "NOTICE.md", "USE_POLICY.md", "training.log"):
        (folder / name).write_text(f"text of {name}")
    return write_readme(folder, front) if front else folder


def compress(folder: Path, text_file: Path, **settings) -> Path:
    calibration = {"source": str(text_file), "samples": 4, "length": 16, "seed": 0}
    out = folder.parent / "out"
    lsprism.compress(str(folder), out, **{"method": "wanda", "calibration": calibration} | settings)
    return out


def test_license_fields_and_files_are_copied(tmp_path, text_file):
    front = "license: other\nlicense_name: forest-1\nlicense_link: LICENSE\ntags: [x]\nextra_gated_prompt: pay first"
    out = compress(base(tmp_path / "tiny", front), text_file)
    lsprism.export(str(out), tmp_path / "dense")
    for folder in (out, tmp_path / "dense"):
        card = ModelCard.load(folder / "README.md").data.to_dict()
        assert (card["license"], card["license_name"], card["license_link"]) == ("other", "forest-1", "LICENSE")
        assert card["library_name"] == "transformers" and "ls-prism" in card["tags"] and "x" not in card["tags"]
        assert "extra_gated_prompt" not in card and "base_model" not in card, "a local folder is not a Hub id"
        assert "forest-1" in (folder / "README.md").read_text()
        for name in ("LICENSE", "NOTICE.md", "USE_POLICY.md"):
            assert (folder / name).read_text() == f"text of {name}"
        assert not (folder / "training.log").exists() and "Llama" not in (folder / "README.md").read_text()


def test_values_are_those_of_the_report(tmp_path, text_file):
    out = tmp_path / "out"
    settings = {"method": "svd", "calibration": {"source": str(text_file), "samples": 4, "length": 16}}
    report = lsprism.compress(str(base(tmp_path / "tiny")), out, **settings)
    text = (out / "README.md").read_text()
    for figure in (report.stored_bytes, report.dense_stored_bytes, report.kept_parameters, report.layer_stored_bytes):
        assert f"{figure:,}" in text
    worst = max(report.layers, key=lambda layer: layer.error)
    assert f"{worst.error:.3f} (`{worst.name}`)" in text
    assert "Perplexity and task scores were not measured" in text
    assert "low-rank factors" in text and "bitmap" not in text


@pytest.mark.parametrize("method", ["wanda", "hybrid"])
def test_the_command_reproduces_the_request(tmp_path, text_file, method, monkeypatch):
    settings = {"method": method, "sparsity": 0.4, "dtype": "float32", "device": "cpu"}
    out = compress(base(tmp_path / "tiny"), text_file, **settings)
    text = (out / "README.md").read_text()
    words = shlex.split(text.partition("```sh\n")[2].partition("```")[0].replace("\\\n", ""))
    assert words[:4] == ["python", "-m", "lsprism", "compress"]
    specs = []

    def compressing(spec):
        specs.append(spec)
        raise WorkError("enough")

    monkeypatch.setattr("lsprism.api.stream_compress", compressing)
    assert main(words[3:]) == 1
    calibration = {"source": text_file.name, "samples": 4, "length": 16, "seed": 0}
    asked = validate(CompressSpec, model_id="tiny", save_path="OUT", calibration=calibration, **settings)
    asked = asked.model_copy(update={"allocation": asked.rule, "compute_dtype": "float32"})
    assert specs == [asked], "only local paths are left out"
    assert str(tmp_path) not in text and "--seed 0" in text, "defaults may change later, so they are written out"


def test_a_dense_copy_states_that_it_is_not_smaller(tmp_path, text_file):
    out = compress(base(tmp_path / "tiny"), text_file)
    lsprism.export(str(out), tmp_path / "dense")
    text = (tmp_path / "dense" / "README.md").read_text()
    assert "as large as the uncompressed model" in text and "zeros" in text and "lsprism.hf" not in text
    assert "--method wanda" in text
    lsprism.export(str(tmp_path / "tiny"), tmp_path / "copy")
    assert "A dense copy of tiny" in (tmp_path / "copy" / "README.md").read_text()


# Llama


@pytest.mark.parametrize(
    "front", ["license: llama3.1", "base_model: meta-llama/Meta-Llama-3.1-8B", "base_model: [x/y, a/Llama-3.1-8B]"]
)
def test_a_model_of_the_llama_family(tmp_path, text_file, front):
    out = compress(base(tmp_path / "forest", front), text_file)
    lsprism.export(str(out), tmp_path / "dense")
    for folder in (out, tmp_path / "dense"):
        text = (folder / "README.md").read_text()
        assert "Built with Llama" in text and NOTICE in text and read_card(folder)["license"] == "llama3.1"
        title = next(line for line in text.splitlines() if line.startswith("# "))
        assert title.startswith("# Llama forest, sparsity 0.5")
        assert (folder / "NOTICE").read_text() == NOTICE + "\n"
        assert (folder / "NOTICE.md").read_text() == "text of NOTICE.md"


def test_an_existing_notice_is_kept_and_not_repeated(tmp_path, text_file):
    folder = base(tmp_path / "tiny", "license: llama3.1")
    (folder / "NOTICE").write_text("Forest notice.\n")
    out = compress(folder, text_file)
    lsprism.export(str(out), tmp_path / "dense")
    assert (tmp_path / "dense" / "NOTICE").read_text() == f"Forest notice.\n\n{NOTICE}\n"


@pytest.mark.parametrize(
    "base_model, version, name",
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "3.1", "Llama-3.1-8B-Instruct"),
        ("meta-llama/Llama-3.1-70B", "3.1", "Llama-3.1-70B"),
        ("meta-llama/Llama-3.2-1B", "3.2", "Llama-3.2-1B"),
        ("x/Hermes-3-Llama-3.1-8B", "3.1", "Llama Hermes-3-Llama-3.1-8B"),
        ("HuggingFaceTB/SmolLM2-135M", "", "SmolLM2-135M"),
        ("TinyLlama/TinyLlama-1.1B-Chat", "", "TinyLlama-1.1B-Chat"),
        ("huggyllama/llama-7b", "", "llama-7b"),
    ],
)
def test_a_llama_is_recognized_by_the_name_of_its_base_model(tmp_path, base_model, version, name):
    license_info = read_license(tmp_path, base_model)
    assert license_info.llama == version and license_info.suggest_name(base_model) == name
    assert license_info.fields == ({"license": f"llama{version}"} if version else {})


@pytest.mark.parametrize("text", ["", "no front matter", "---\na: [\n---\n", "---\n- a\n---\n", "---\n---\n", "\udc80"])
def test_a_readme_without_front_matter(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_license(tmp_path) == License({})


def test_no_readme_at_all(tmp_path):
    assert read_license(tmp_path, "org/model") == License({}) and read_license(tmp_path).notice == ""


def test_licenses_and_notes_are_downloaded_from_the_hub():
    """Files that are copied to artifacts or read by `verify` must be downloaded."""
    files = ["README.md", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", "config.json", "lsprism/manifest.json"]
    files += ["chat_template.jinja", "additional_chat_templates/rag.jinja"]
    others = [
        "onnx/config.json",
        "original/params.json",
        "lora/config.json",
        "pytorch_model.bin",
        "image.png",
        "adapters/a.json",
    ]
    taken = filter_repo_objects(files + others, allow_patterns=[*WORDS], ignore_patterns=[*COPIES])
    assert list(taken) == files
