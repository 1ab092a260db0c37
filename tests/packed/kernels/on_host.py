"""streams.cu itself, compiled for the CPU: see host.h."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lsprism.packed.kernels import gpu
from lsprism.packed.kernels.group import Group

HOST = Path(__file__).with_name("host.h")
_ASM = re.compile(r"asm\s*(?:volatile)?\s*\(\s*((?:\"[^\"]*\"|#\w+|\s)*)((?:[^;\"]|\"[^\"]*\")*)\);")


def translate(text: str) -> str:
    """CUDA -> C++: a PTX statement becomes a call with its operands."""
    text = _include(text, set())
    text = _choose_branches(text)
    text = text.replace(
        "extern __shared__ __align__(16) char shared[];", "char* shared = current->block->shared.data();"
    )
    text = text.replace("__shared__ bool last[2];", "bool* last = (bool*)current->block->fixed;")
    text = text.replace("__shared__ float inverse[TOKENS];", "float* inverse = (float*)current->block->fixed + 8;")
    return _ASM.sub(_call, text)


def _include(text: str, seen: set[str]) -> str:
    """With the contents of its headers, each once."""

    def insert(match: re.Match) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return _include(gpu.SOURCE.with_name(match[1]).read_text(encoding="utf-8"), seen)

    return re.sub(r'#include "([\w.]+)"\n', insert, text.replace("#pragma once\n", ""))


def _choose_branches(text: str) -> str:
    """mma has one statement whose first line depends on HALF; both are the same function here."""
    pattern = r"#if HALF\n(  asm\(\"mma[^\n]*\n)#else\n  asm\(\"mma[^\n]*\n#endif\n"
    return re.sub(pattern, r"\1", text)


def _call(match: re.Match) -> str:
    mnemonic = re.search(r"\"([\w.:]+)", match[1])
    if mnemonic is None:  # an empty statement
        return ";"
    operands, rest = [], match[2]
    for found in re.finditer(r"\"[=+]?\w+\"\(", rest):
        depth, at = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(rest[at], 0)
            at += 1
        operands.append(rest[found.end() : at - 1])
    return f"ptx_{re.sub('[.:]', '_', mnemonic[1])}({', '.join(operands)});"


def compile_kernel(
    folder: Path, tokens: int, half: bool, int8: bool, warps: int, cuda: Path = gpu.SOURCE, around: bool = False
) -> ctypes.CDLL:
    """The kernel with these options; needs a C++ compiler."""
    name = "multiply_group" if cuda == gpu.SOURCE else "unpack_group"
    options = {**gpu.kernel_options(tokens, half, int8, around), "WARPS": warps}
    return _compile(folder, cuda, f"{name}(*(const Group*)g)", "WARPS * LANES", options)


def compile_rotary(folder: Path, half: bool) -> ctypes.CDLL:
    """rotary.cu for bfloat16 or float16."""
    return _compile(folder, gpu.ROTARY_SOURCE, "rotate_heads(*(const Rotary*)g)", "LANES", gpu.rotary_options(half))


def _compile(folder: Path, cuda: Path, call: str, threads: str, options: dict[str, int]) -> ctypes.CDLL:
    stem = f"{cuda.stem}-{'-'.join(map(str, options.values()))}"
    source, made = folder / f"{stem}.cpp", folder / f"{stem}.so"
    source.write_text(
        f'#include "{HOST}"\n{translate(cuda.read_text(encoding="utf-8"))}\n'
        'extern "C" int start(const void* g, int blocks, int shared) {\n'
        f"  body = [g] {{ {call}; }};\n  return run(blocks, {threads}, shared);\n}}\n"
    )
    flags = [f"-D{name}={value}" for name, value in options.items()]
    command = [shutil.which("g++"), "-std=c++17", "-O1", "-w", "-fPIC", "-shared", *flags, source, "-o", made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr[:3000]
    return ctypes.CDLL(str(made))


def multiply(
    kernel: ctypes.CDLL, group: Group, x: Tensor, tokens: int, limit: int = 100_000, around: gpu.Around = gpu.NOTHING
) -> list[Tensor]:
    """As gpu.multiply_group, with `limit` bytes of shared memory; `tokens`: what the kernel is for."""
    count = 1 if around.gated else len(x)
    y = torch.full((sum(group.rows) * count,), float("nan"), dtype=x.dtype)
    held, x_at, shared = gpu.fit_shared(group, tokens, limit)
    arguments = gpu.fill_arguments(group, x, y, held, x_at, around)
    assert kernel.start(ctypes.byref(arguments), group.blocks, shared), "thread blocks wait for each other"
    return gpu.split_members(group, y, count)


def rotate(kernel: ctypes.CDLL, query: Tensor, key: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """As gpu.rotate_heads."""
    arguments, found = gpu.rotary_arguments(query, key, *settings)
    assert kernel.start(ctypes.byref(arguments), len(query) + len(key), 0)
    return found


def unpack(kernel: ctypes.CDLL, group: Group) -> Tensor:
    """As gpu.unpack_group."""
    out = torch.zeros(sum(group.rows), group.columns, dtype=group.dtype)
    assert kernel.start(ctypes.byref(gpu.fill_arguments(group, out, out, 1, 0)), group.blocks, 0)
    return out
