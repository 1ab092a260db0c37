"""Compiles the CPU kernels on first use into the user's cache, one shared library per instruction set.

A plain C interface with ctypes compiles in about three seconds and needs no headers of torch or Python. The library is
linked with the OpenMP runtime that torch has loaded, so that both share one thread pool.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from lsprism.paths import cache_folder

logger = logging.getLogger("lsprism.packed.kernels")
_FILES = ("kernels.cpp", "block.h", "row_kernels.h", "scheduler.h", "simd.h", "dtypes.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in _FILES)
_AVX2 = {"avx2": "-mavx2", "fma3": "-mfma", "f16c": "-mf16c", "popcnt": "-mpopcnt"}
_AVX512 = _AVX2 | {f"avx512_{part}": f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")}
_BF16 = _AVX512 | {f"avx512_{part}": f"-mavx512{part}" for part in ("vbmi2", "bf16", "vnni")}
# Level -> required CPU capability (as named by torch) and its compiler flag. The best level is last; the position in
# the dict is LEVEL in dtypes.h.
LEVELS: dict[str, dict[str, str]] = {"portable": {}, "avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": _BF16}


class BuildError(Exception):
    """The kernels cannot be compiled or loaded. Never reaches the user: the reference path is used instead."""


def list_usable_levels() -> list[str]:
    """The levels that this CPU supports, the best last."""
    has = torch.cpu.get_capabilities()
    return [level for level, needs in LEVELS.items() if all(has.get(name) for name in needs)]


@cache
def load_library(level: str, sanitize: bool = False) -> ctypes.CDLL:
    """The kernels of one level, compiled unless the cache contains them; BuildError if that fails."""
    path = cache_folder() / f"kernels-{level}-{compute_version(level, sanitize)}.so"
    if not path.is_file():
        _compile(level, path, sanitize)
    try:
        return _set_signatures(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        path.unlink(missing_ok=True)  # the next process compiles it again
        raise BuildError(f"{path} cannot be loaded ({error})") from None


def _set_signatures(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the C functions of kernels.cpp."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    loaded.prism_multiply.argtypes = [pointer, pointer, pointer, number, ctypes.c_int, ctypes.c_int]
    loaded.prism_unpack.argtypes = [pointer, number, number, pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    loaded.prism_offsets.argtypes = [pointer, number, number, pointer]
    loaded.prism_begin_block.argtypes = [pointer] * 7 + [ctypes.c_int, ctypes.c_int]
    loaded.prism_end_block.argtypes = [pointer] * 5 + [ctypes.c_int, ctypes.c_int]
    for name in ("multiply", "unpack", "offsets", "begin_block", "end_block"):
        getattr(loaded, f"prism_{name}").restype = None
    return loaded


@cache
def compute_version(level: str, sanitize: bool = False) -> str:
    """A hash of the sources, the flags and the OpenMP runtime."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update(source.read_bytes())
    digest.update(repr((_list_flags(level, sanitize), platform.machine(), _find_openmp())).encode())
    return digest.hexdigest()[:16]


def _list_flags(level: str, sanitize: bool) -> list[str]:
    # -w: GCC 12 warns about uninitialized values in its own AVX-512 headers.
    flags = [
        "-std=c++17",
        "-O3",
        "-fno-tree-slp-vectorize",
        "-w",
        "-fPIC",
        "-shared",
        f"-DLEVEL={list(LEVELS).index(level)}",
    ]
    if sanitize:
        flags += ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return flags + list(LEVELS[level].values())


def _find_openmp() -> Path | None:
    """The OpenMP runtime bundled with torch; None if torch uses the system's."""
    root = Path(torch.__file__).parent
    found = [path for folder in (root / "lib", root.with_name("torch.libs")) for path in folder.glob("lib[gi]omp*.so*")]
    return min(found, default=None)


def _compile(level: str, path: Path, sanitize: bool) -> None:
    """Compile to a temporary file and rename it."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise BuildError("no C++ compiler found")
    openmp = _find_openmp()
    logger.info("Compiling the CPU kernels (%s); takes a few seconds, once.", level)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as work:
            made, objects = Path(work) / path.name, Path(work) / "kernels.o"
            flags = _list_flags(level, sanitize)
            _run([compiler, *flags, "-fopenmp", "-c", str(SOURCES[0]), "-o", str(objects)])
            runtime = [str(openmp)] if openmp else ["-fopenmp"]
            _run([compiler, *flags, str(objects), *runtime, "-o", str(made)])
            made.replace(path)
    except OSError as error:
        raise BuildError(f"the kernels cannot be written to {path.parent} ({error.strerror})") from None


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run ({error})") from None
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise BuildError(f"{command[0]} failed: {first.strip()}")
