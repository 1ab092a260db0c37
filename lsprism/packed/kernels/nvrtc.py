"""Compiles a CUDA kernel for one architecture at run time, by NVRTC, and keeps it in the cache folder.

NVRTC is a library that comes with PyTorch's CUDA wheels. It needs no CUDA toolkit and no GPU. Sources include only
files that end in .cuh and lie in the same folder.
"""

import ctypes
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import torch

from lsprism.packed.kernels.build import BuildError
from lsprism.paths import cache_folder

logger = logging.getLogger("lsprism.packed.kernels")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib")  # of the wheels, in a folder of packages


def compile_cached(source: Path, arch: str, options: Mapping[str, int]) -> bytes:
    """The cubin of `source` for an architecture such as sm_90, `options` defined as macros; BuildError if it fails."""
    version = find_version()
    digest = hashlib.sha256(source.read_bytes())
    for header in _headers(source):
        digest.update(header.read_bytes())
    digest.update(repr((arch, sorted(options.items()), version)).encode())
    path = cache_folder() / f"{source.stem}-{arch}-{digest.hexdigest()[:16]}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        made = compile_cubin(source, arch, options)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(made)
        unfinished.replace(path)
    except OSError:
        logger.info("CUDA kernels cannot be cached in %s.", path.parent)
    return made


def compile_cubin(source: Path, arch: str, options: Mapping[str, int]) -> bytes:
    """The same, always compiled."""
    nvrtc, program = load_nvrtc(), ctypes.c_void_p()
    headers = _headers(source)
    texts = _strings([header.read_bytes() for header in headers])
    names = _strings([header.name.encode() for header in headers])
    given = source.read_bytes(), source.name.encode(), len(headers), texts, names
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), *given), "nvrtcCreateProgram")
    try:
        flags = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-D{key}={value}" for key, value in options.items())]
        if nvrtc.nvrtcCompileProgram(program, len(flags), _strings([flag.encode() for flag in flags])):
            log = _fetch(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
            first = next((line for line in log.splitlines() if "error" in line), "no message")
            raise BuildError(f"NVRTC cannot compile {source.name} for {arch}: {first.strip()}")
        return _fetch(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def find_version() -> tuple[int, int]:
    """Of NVRTC; BuildError where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(load_nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


@cache
def load_nvrtc() -> ctypes.CDLL:
    """NVRTC as PyTorch has loaded it, else from the wheels or the system; BuildError where there is none."""
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
            found.nvrtcCreateProgram.argtypes = [
                ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
            ]  # fmt: skip
            found.nvrtcCompileProgram.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
            return found
        except (OSError, AttributeError):
            continue
    raise BuildError("NVRTC was not found")


def _candidates() -> Iterator[str]:
    """That of PyTorch's own CUDA version first, which the driver is known to support; wheels before the system's."""
    own = f"libnvrtc.so.{(torch.version.cuda or '').partition('.')[0]}"
    for name in sorted(_NAMES, key=lambda name: name != own):
        for folder in filter(None, sys.path):
            yield from (str(path) for inner in _FOLDERS if (path := Path(folder, inner, name)).is_file())
        yield name
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        if home:
            yield str(Path(home, "lib64", name))


def _headers(source: Path) -> list[Path]:
    return sorted(source.parent.glob("*.cuh"))


def _strings(texts: list[bytes]) -> ctypes.Array:
    return (ctypes.c_char_p * len(texts))(*texts)


def _fetch(size_of: Callable[..., int], get: Callable[..., int], program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)), "NVRTC")
    buffer = ctypes.create_string_buffer(size.value)
    _check(get(program, buffer), "NVRTC")
    return buffer.raw


def _check(status: int, call: str) -> None:
    if status:
        raise BuildError(f"{call} failed with status {status}")
