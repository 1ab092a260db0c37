"""Every odd model folder through the command line: the model that transformers loads, or one sentence and a next step.

All of them run in one process; whatever raises fails the test with its traceback.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from odd_folders import ODD, VERBS, Odd
from transformers import AutoModelForCausalLM

from lsprism import api
from lsprism.cli import main
from lsprism.models.module_utils import use_plain_outputs

pytestmark = pytest.mark.usefixtures("one_thread")

# Of a layer everything is kept, so that the result must answer as the model does.
LEAST = {"compress": "--method wanda --sparsity 1e-9 --samples 2 --length 16", "generate": "--max-new-tokens 2"}


@pytest.fixture
def run(tmp_path, text_file, capsys):
    """Run one verb on a folder; returns the exit code, and the sentence and the hint of a refusal."""

    def run(verb: str, folder: Path, words: str) -> tuple[int, str, str]:
        more = {
            "compress": ["--calibration", str(text_file), "--save-path", str(tmp_path / "out")],
            "generate": ["--prompt", "the river"],
        }
        least = [*shlex.split(LEAST.get(verb, "")), *more.get(verb, [])]
        code = main([verb, "--model-id", str(folder), *least, *shlex.split(words)])
        lines = capsys.readouterr().err.splitlines()
        start = next((n for n, line in enumerate(lines) if line.startswith("error ")), len(lines))
        assert "Traceback" not in "\n".join(lines)
        refusal = [*lines[start:], "", ""]
        return code, refusal[0], refusal[1]

    return run


@pytest.mark.parametrize("name", ODD)
def test_an_odd_folder_works_or_is_refused_in_a_sentence(tiny_folder, tmp_path, run, name):
    odd, folder = ODD[name], shutil.copytree(tiny_folder, tmp_path / "model")
    odd.build(folder)
    for verb in VERBS:
        code, sentence, hint = run(verb, folder, odd.words.get(verb, ""))
        if code == 0:
            assert not must_refuse(odd, verb), f"{verb} works"
        else:
            check_refusal(odd, verb, code, sentence, hint)
    assert {path.name for path in tmp_path.iterdir()} <= {"model", "out"}
    if (tmp_path / "out").exists():
        check_same_model(folder, tmp_path / "out")
        assert all((tmp_path / "out" / copy).is_file() for copy in odd.copies)


def must_refuse(odd: Odd, verb: str) -> bool:
    return bool(odd.says) and verb in odd.by and not odd.works


def check_refusal(odd: Odd, verb: str, code: int, sentence: str, hint: str) -> None:
    assert odd.says, f"{verb}: {sentence}"
    assert code == 2, f"{verb}: {sentence}"
    assert re.search(odd.says, sentence), f"{verb}: {sentence}"
    assert sentence.endswith(".") and hint, f"{verb}: {sentence} {hint}"


def check_same_model(folder: Path, artifact: Path) -> None:
    """The artifact answers as what `from_pretrained` makes of the folder, to the last bit."""
    ours = api.load(artifact).model
    attention = ours.config._attn_implementation
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=ours.dtype, attn_implementation=attention).eval()
    use_plain_outputs(theirs)
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        one, other = (model(input_ids=ids, return_dict=True).logits for model in (ours, theirs))
    assert torch.equal(one, other)
