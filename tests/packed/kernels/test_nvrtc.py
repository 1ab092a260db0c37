"""The CUDA kernel compiles for every architecture, and its loop is as short as it should be. Needs no GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lsprism.packed.kernels import nvrtc
from lsprism.packed.kernels.build import BuildError
from lsprism.packed.kernels.gpu import ROTARY_SOURCE, SOURCE, UNPACK_SOURCE, kernel_options, rotary_options
from lsprism.packed.kernels.streams import SLOTS

ARCHS = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
KERNELS = [  # tokens, float16, int8
    (1, False, False), (1, True, False), (1, False, True), (2, False, False), (4, True, True), (8, False, False),
    (8, False, True), (8, True, True),
]  # fmt: skip
OTHERS = [
    (SOURCE, kernel_options(1, half=False, int8=False, around=True)), (UNPACK_SOURCE, kernel_options(1, False, True)),
    (ROTARY_SOURCE, rotary_options(half=True)),
]  # fmt: skip
MOST = 3.8  # instructions a slot, for one token of 16 bits


@pytest.fixture(scope="module")
def compiler():
    try:
        return nvrtc.find_version()
    except BuildError as error:
        pytest.skip(f"{error}: pip install nvidia-cuda-nvrtc")


def disassemble(cubin: Path) -> str:
    """SASS, by the tool that comes with Triton."""
    triton = pytest.importorskip("triton", reason="triton, which has cuobjdump, is not installed")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file() or shutil.which(tool) is None:
        pytest.skip("this Triton has no cuobjdump")
    return subprocess.run([tool, "-sass", cubin], capture_output=True, text=True, check=True).stdout


def loop_of(sass: str) -> list[str]:
    """The instructions of the smallest loop that multiplies."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass)]
    loops = []
    for at, text in code:
        to = re.search(r"BRA.*0x([0-9a-f]+)", text)
        if to and int(to[1], 16) < at:
            body = [one for place, one in code if int(to[1], 16) <= place <= at]
            loops += [body] if any("HMMA" in one for one in body) else []
    return min(loops, key=len)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_it_compiles_without_spills_and_with_a_short_loop(compiler, arch, tmp_path):
    for tokens, half, int8 in KERNELS:
        options = kernel_options(tokens, half, int8)
        sass = compile_without_spills(SOURCE, options, arch, tmp_path)
        loop, depth = loop_of(sass), options["DEPTH"]
        assert sum("HMMA" in one for one in loop) == depth * 4 * tokens
        if tokens == 1 and not int8:
            assert len(loop) <= MOST * depth * SLOTS
            assert sum("LDG.E" in one and ".128" in one for one in loop) == 2 * depth
    for source, options in OTHERS:
        compile_without_spills(source, options, arch, tmp_path)


def compile_without_spills(source: Path, options: dict[str, int], arch: str, folder: Path) -> str:
    path = folder / "kernel.cubin"
    path.write_bytes(nvrtc.compile_cubin(source, arch, options))
    sass = disassemble(path)
    assert not re.search(r"\b(LDL|STL)\b", sass), (source.name, options)
    return sass


def test_a_cubin_is_compiled_once_for_each_source_and_option(monkeypatch, tmp_path):
    made = []
    monkeypatch.setenv("LSPRISM_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "find_version", lambda: (13, 0))
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *key: made.append(key) or b"cubin")
    source = tmp_path / "kernel.cu"
    source.write_text("one")
    for _ in range(2):
        assert nvrtc.compile_cached(source, "sm_90", {"A": 1}) == b"cubin"
    assert len(made) == 1
    nvrtc.compile_cached(source, "sm_89", {"A": 1})
    nvrtc.compile_cached(source, "sm_90", {"A": 2})
    source.write_text("two")
    nvrtc.compile_cached(source, "sm_90", {"A": 1})
    assert len(made) == 4 and len(list((tmp_path / "cache").glob("kernel-sm_*.cubin"))) == 4


@pytest.mark.slow
def test_an_error_names_the_line(compiler, tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { nothing(); }")
    with pytest.raises(BuildError, match=r"wrong.cu.*nothing"):
        nvrtc.compile_cubin(source, "sm_90", {})


@pytest.mark.parametrize("major", ["12", "13"])
def test_the_nvrtc_of_pytorchs_own_version_comes_first(monkeypatch, tmp_path, major):
    """A driver may not load what a newer one has compiled."""
    for folder, name in (("nvidia/cu13/lib", "libnvrtc.so.13"), ("nvidia/cuda_nvrtc/lib", "libnvrtc.so.12")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
    monkeypatch.setattr(nvrtc.sys, "path", [str(tmp_path)])
    monkeypatch.setattr(nvrtc.torch.version, "cuda", f"{major}.1")
    found = list(nvrtc._candidates())
    assert found[0].endswith(f"libnvrtc.so.{major}") and found[0].startswith(str(tmp_path))
    assert f"libnvrtc.so.{major}" == found[1] and len([one for one in found if one.startswith(str(tmp_path))]) == 2


def test_without_nvrtc_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libnothing.so.1"]))
    nvrtc.load_nvrtc.cache_clear()
    with pytest.raises(BuildError, match="NVRTC was not found"):
        nvrtc.load_nvrtc()
    nvrtc.load_nvrtc.cache_clear()
