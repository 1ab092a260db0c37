"""The compute dtype is picked by a cached measurement, or by the capability of a CUDA device."""

import json

import pytest
import torch

from lsprism.errors import SpecError
from lsprism.packed import compute_dtype
from lsprism.packed.compute_dtype import measure_rates, select_compute_dtype
from lsprism.packed.kernels import autotune

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """Simulate another process."""
    autotune.read_cached.cache_clear()
    compute_dtype._load_rates.cache_clear()


def rates(monkeypatch, bfloat16: float, float32: float, instructions: bool = False) -> None:
    """Simulate a machine with these speeds."""
    found = {torch.bfloat16: bfloat16, torch.float32: float32}
    monkeypatch.setattr(compute_dtype, "_measure_products", lambda storage: found)
    monkeypatch.setattr(compute_dtype, "_has_instructions", lambda dtype: instructions)


@pytest.mark.parametrize(
    ("bfloat16", "float32", "instructions", "picked"),
    [
        (9e9, 60e9, False, torch.float32),  # AVX2
        (400e9, 190e9, True, torch.bfloat16),
        (100e9, 105e9, True, torch.bfloat16),  # too close
        (105e9, 100e9, False, torch.float32),
        (0.0, 100e9, False, torch.float32),  # not supported by torch
    ],
)
def test_on_a_cpu_the_faster_one_is_picked(monkeypatch, bfloat16, float32, instructions, picked):
    rates(monkeypatch, bfloat16, float32, instructions)
    assert select_compute_dtype("auto", torch.bfloat16, CPU) is picked


def test_float32_is_never_computed_in_lower_precision(monkeypatch):
    rates(monkeypatch, 400e9, 100e9)
    assert select_compute_dtype("auto", torch.float32, CPU) is torch.float32


@pytest.mark.parametrize(("capability", "picked"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float32(monkeypatch, capability, picked):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert select_compute_dtype("auto", torch.bfloat16, torch.device("cuda:0")) is picked
    assert select_compute_dtype("auto", torch.float16, torch.device("cuda:0")) is torch.float16


def test_an_explicit_name_is_used_or_refused():
    assert select_compute_dtype("bfloat16", torch.float32, CPU) is torch.bfloat16
    with pytest.raises(SpecError, match="'int4'"):
        select_compute_dtype("int4", torch.bfloat16, CPU)


def test_the_machine_is_measured_once_per_process():
    found = measure_rates(torch.bfloat16)
    assert found.keys() == {torch.bfloat16, torch.float32} and all(rate > 1e8 for rate in found.values())
    assert measure_rates(torch.bfloat16) is found


def test_the_best_of_three_processes_counts(monkeypatch):
    for bfloat16, float32 in ((1e9, 2e9), (3e9, 1e9), (2e9, 2e9)):  # the machine is sometimes busy
        rates(monkeypatch, bfloat16, float32)
        forget()
        found = measure_rates(torch.bfloat16)
    assert found == {torch.bfloat16: 3e9, torch.float32: 2e9}
    monkeypatch.setattr(compute_dtype, "_measure_products", lambda storage: pytest.fail("measured again"))
    forget()
    assert measure_rates(torch.bfloat16) == found


@pytest.mark.parametrize("entry", [None, [], "fast", {"bfloat16": 1.0}, {"bfloat16": "fast", "float32": 1.0}])
def test_an_invalid_cache_entry_is_measured_again(home, monkeypatch, entry):
    rates(monkeypatch, 1e9, 2e9)
    path = home / "cache" / "products.json"
    path.parent.mkdir()
    path.write_text(json.dumps({compute_dtype._make_key(torch.bfloat16): entry}))
    assert measure_rates(torch.bfloat16) == {torch.bfloat16: 1e9, torch.float32: 2e9}
