"""Peak memory during generation: measured in a separate process, minus import overhead."""

import subprocess
from types import SimpleNamespace

import pytest

import lsprism.hf  # noqa: F401 - registers the artifact format
from lsprism.errors import WorkError
from lsprism.evaluation import peak_memory as room
from lsprism.evaluation.peak_memory import MemoryProbe, add_peak_memory, measure_peak
from lsprism.models.source import resolve
from lsprism.records.metrics import SpeedResult


def figure(prompt_tokens: int = 8, dtype: str = "bfloat16", device: str = "cpu") -> SpeedResult:
    return SpeedResult(
        model="tiny",
        prompt_tokens=prompt_tokens,
        new_tokens=4,
        first_token_runs_s=[1.0],
        tokens_per_s_runs=[1.0],
        dtype=dtype,
        device=device,
        threads=1,
    )


@pytest.fixture
def children(monkeypatch):
    """Fake child processes: records their commands and prints a given peak."""
    started, said = [], {"idle": "300", "work": "noise\n1000", "code": 0, "stderr": ""}

    def scripted(command, **settings):
        started.append(command[3:])
        text = said["work"] if len(command) > 3 else said["idle"]
        return SimpleNamespace(returncode=said["code"], stdout=text + "\n", stderr=said["stderr"])

    monkeypatch.setattr(subprocess, "run", scripted)
    room._measure_idle.cache_clear()
    yield started, said
    room._measure_idle.cache_clear()


def test_the_memory_of_an_idle_process_is_subtracted(children, tiny_folder):
    started, _ = children
    found = add_peak_memory(figure(), resolve(str(tiny_folder)))
    assert found.peak_memory_bytes == 700
    assert found == figure().model_copy(update={"peak_memory_bytes": 700})
    add_peak_memory(figure(), resolve(str(tiny_folder)))
    assert [bool(arguments) for arguments in started] == [True, False, True]  # the idle process is measured once
    work = MemoryProbe.model_validate_json(started[0][0])
    assert (work.prompt_tokens, work.new_tokens, work.dtype, work.device) == (8, 4, "bfloat16", "cpu")
    assert work.source == resolve(str(tiny_folder))


def test_nothing_is_subtracted_from_device_memory(children, tiny_folder):
    assert add_peak_memory(figure(device="cuda:0"), resolve(str(tiny_folder))).peak_memory_bytes == 1000


def test_without_a_value_from_the_system_it_is_none(children, tiny_folder):
    children[1]["work"] = "0"
    assert add_peak_memory(figure(), resolve(str(tiny_folder))).peak_memory_bytes is None


@pytest.mark.parametrize(("code", "reason"), [(1, "ValueError: broken"), (-9, "probably out of memory")])
def test_a_failed_process_is_an_error_with_its_reason(children, tiny_folder, code, reason):
    children[1].update(code=code, stderr="Traceback\nValueError: broken\n")
    with pytest.raises(WorkError, match=reason):
        add_peak_memory(figure(), resolve(str(tiny_folder)))


def test_the_peak_of_this_process_is_read_after_generation(tiny_folder):
    work = MemoryProbe(source=resolve(str(tiny_folder)), device="cpu", dtype="float32", prompt_tokens=200, new_tokens=3)
    assert measure_peak(work) > 2**26


@pytest.mark.slow
def test_real_processes_measure_the_weights(tmp_path):
    """float32 weights take twice the memory of bfloat16: 135 M parameters are 538 MB or 269 MB."""
    demo = resolve("demo")
    short, long = (add_peak_memory(figure(dtype=dtype), demo).peak_memory_bytes for dtype in ("bfloat16", "float32"))
    assert 269e6 < short < 269e6 * 3
    assert long - short > 200e6
