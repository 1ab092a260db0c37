"""Loads cubins and starts kernels through the CUDA driver, in the context and on the streams of PyTorch."""

import ctypes
from functools import cache

import torch

from lsprism.packed.kernels.build import BuildError

_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_STATIC_BYTES = 1  # CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
_SHARED_LIMIT = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


class Kernel:
    """A kernel of a cubin, on one device."""

    def __init__(self, cubin: bytes, name: str, device: torch.device) -> None:
        self._driver, self._module, self._function = load_driver(), ctypes.c_void_p(), ctypes.c_void_p()
        self.shared = shared_limit(device)
        with torch.cuda.device(device):
            enter_context(device)
            load, find = self._driver.cuModuleLoadData, self._driver.cuModuleGetFunction
            _check(load(ctypes.byref(self._module), cubin), "cuModuleLoadData")
            _check(find(ctypes.byref(self._function), self._module, name.encode()), "cuModuleGetFunction")
            self.shared -= _static_bytes(self._driver, self._function)
            set_attribute = self._driver.cuFuncSetAttribute
            _check(set_attribute(self._function, _SHARED_BYTES, self.shared), "cuFuncSetAttribute")

    def launch(self, blocks: int, threads: int, shared: int, argument: ctypes.Structure, device: torch.device) -> None:
        """Start it on PyTorch's current stream of the device, which may be recorded by a CUDA graph."""
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        with torch.cuda.device(device):
            enter_context(device)
            stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
            sizes = (blocks, 1, 1, threads, 1, 1, shared)
            status = self._driver.cuLaunchKernel(self._function, *sizes, stream, arguments, None)
        if status:
            raise RuntimeError(f"A CUDA kernel could not be started ({name_status(status)}).")


@cache
def load_driver() -> ctypes.CDLL:
    """The CUDA driver's library; BuildError where there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BuildError("the CUDA driver's library was not found")


@cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a thread block can ask for."""
    value = ctypes.c_int()
    attribute = load_driver().cuDeviceGetAttribute
    _check(attribute(ctypes.byref(value), _SHARED_LIMIT, _index(device)), "cuDeviceGetAttribute")
    return value.value


def enter_context(device: torch.device) -> None:
    """Make PyTorch's context of the device current on this thread, where no context is."""
    driver, current = load_driver(), ctypes.c_void_p()
    _check(driver.cuCtxGetCurrent(ctypes.byref(current)), "cuCtxGetCurrent")
    if not current.value:
        _check(driver.cuCtxSetCurrent(_primary_context(_index(device))), "cuCtxSetCurrent")


@cache
def _primary_context(index: int) -> ctypes.c_void_p:
    context = ctypes.c_void_p()
    _check(load_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), index), "cuDevicePrimaryCtxRetain")
    return context


def name_status(status: int) -> str:
    """As the driver names it."""
    name = ctypes.c_char_p()
    load_driver().cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else f"status {status}"


def _static_bytes(driver: ctypes.CDLL, function: ctypes.c_void_p) -> int:
    """Shared memory that the kernel's own variables take."""
    value = ctypes.c_int()
    _check(driver.cuFuncGetAttribute(ctypes.byref(value), _STATIC_BYTES, function), "cuFuncGetAttribute")
    return value.value


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _check(status: int, call: str) -> None:
    if status:
        raise BuildError(f"{call} failed ({name_status(status)})")
