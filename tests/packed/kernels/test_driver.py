"""What the CUDA driver is asked for, by a driver that is none."""

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from lsprism.packed.kernels import driver
from lsprism.packed.kernels.build import BuildError

GPU = torch.device("cuda:0")


class Driver:
    """Records calls; `failing`: the one that returns a status."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.calls = failing, []

    def __getattr__(self, name: str):
        def call(*arguments):
            self.calls.append((name, arguments))
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = 100_000
            if name == "cuFuncGetAttribute":
                arguments[0]._obj.value = 48
            return 700 if name == self.failing else 0

        return call


class Numbers(ctypes.Structure):
    _fields_ = [("one", ctypes.c_int)]


@pytest.fixture
def fake(monkeypatch):
    def use(failing: str = "") -> Driver:
        made = Driver(failing)
        monkeypatch.setattr(driver, "load_driver", lambda: made)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1234))
        driver.shared_limit.cache_clear()
        driver._primary_context.cache_clear()
        return made

    yield use
    driver.shared_limit.cache_clear()
    driver._primary_context.cache_clear()


def test_a_kernel_gets_all_shared_memory_that_its_variables_leave(fake):
    made = fake()
    kernel = driver.Kernel(b"cubin", "multiply_group", GPU)
    assert kernel.shared == 100_000 - 48
    asked = dict(made.calls)
    assert asked["cuModuleLoadData"][1] == b"cubin" and asked["cuModuleGetFunction"][2] == b"multiply_group"
    assert asked["cuFuncSetAttribute"][1:] == (8, kernel.shared)


def test_it_starts_on_the_stream_of_pytorch_in_a_context(fake):
    made = fake()
    kernel = driver.Kernel(b"cubin", "multiply_group", GPU)
    numbers = Numbers(7)
    kernel.launch(132, 384, 5000, numbers, GPU)
    name, arguments = made.calls[-1]
    assert name == "cuLaunchKernel" and arguments[1:8] == (132, 1, 1, 384, 1, 1, 5000)
    assert arguments[8].value == 1234 and arguments[9][0] == ctypes.addressof(numbers)
    names = [name for name, _ in made.calls]
    assert names.count("cuCtxSetCurrent") == 2 and names.count("cuDevicePrimaryCtxRetain") == 1, (
        "no context was current"
    )


def test_a_launch_that_fails_is_an_error(fake):
    fake("cuLaunchKernel")
    kernel = driver.Kernel(b"cubin", "multiply_group", GPU)
    with pytest.raises(RuntimeError, match="status 700"):
        kernel.launch(1, 32, 0, Numbers(), GPU)


@pytest.mark.parametrize("failing", ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"])
def test_a_kernel_that_cannot_be_loaded_is_a_build_error(fake, failing):
    fake(failing)
    with pytest.raises(BuildError, match=f"{failing} failed"):
        driver.Kernel(b"cubin", "multiply_group", GPU)


def test_without_a_driver_the_reason_is_said(monkeypatch):
    def refuse(name: str) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    driver.load_driver.cache_clear()
    with pytest.raises(BuildError, match="driver's library was not found"):
        driver.load_driver()
