"""The safetensors files of a model folder and their headers. No tensor is read here."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lsprism.errors import DamagedError, LSPrismError, SourceError
from lsprism.json_files import FETCH, LFS, Shape, read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # in the order in which transformers tries them
REMEDY = "Download, copy or convert the model again."
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class IndexShape(Shape):
    weight_map: dict[str, str]


@dataclass(frozen=True)
class TensorHeader:
    """Shape and dtype of one tensor in a file."""

    file: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors spells it: "BF16"

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("F", "BF"))


def read_index(path: Path, error: type[LSPrismError] = DamagedError) -> dict[str, str]:
    """Tensor -> file, from an index. Raises `error` if it is malformed or points outside its folder."""
    listed = read_object(path, IndexShape, error, REMEDY)["weight_map"]
    for key, file in listed.items():
        if not file or Path(file).name != file or file == ".." or "\\" in file or "\0" in file:
            raise error(f"{path} lists {key} in {file!r}, which is not a file in its folder.", REMEDY)
    return listed


def list_weight_files(folder: Path, error: type[LSPrismError] = DamagedError) -> list[str]:
    """Names of the files that `from_pretrained` reads, in its order, whether they exist or not."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise SourceError(
            f"{folder} has neither {SINGLE} nor {INDEX}.", "Save the model with transformers' save_pretrained()."
        )
    return sorted(set(read_index(folder / INDEX, error).values()))


def map_tensor_files(folder: Path) -> dict[str, str]:
    """Key of each tensor -> name of the file that it is read from.

    As in `from_pretrained`: all tensors of all files named by the index, listed or not; of two with the same name, the
    one in the later file. Raises DamagedError, with the file's name, for a file that is missing, truncated, or lacks a
    tensor that the index lists in it.
    """
    held = {file: _read_keys(folder / file) for file in list_weight_files(folder)}
    if SINGLE not in held:
        for key, file in read_index(folder / INDEX).items():
            if key not in held[file]:
                raise DamagedError(f"{folder / file} lacks the tensor {key}, which {INDEX} lists.", REMEDY)
    return {key: file for file, keys in held.items() for key in keys}


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """Key of each tensor -> its file, shape and dtype. Raises DamagedError as `map_tensor_files` does."""
    headers = {}
    file_of = map_tensor_files(folder)
    for file in dict.fromkeys(file_of.values()):
        with open_tensors(folder / file) as stored:
            for key in stored.keys():  # noqa: SIM118 - not a dict
                if file_of[key] == file:
                    part = stored.get_slice(key)
                    headers[key] = TensorHeader(file, tuple(part.get_shape()), part.get_dtype())
    return headers


def find_stored_dtype(folder: Path) -> torch.dtype | None:
    """The floating-point dtype of most stored values; None without weights."""
    if not ((folder / SINGLE).is_file() or (folder / INDEX).is_file()):
        return None
    numbers: Counter[torch.dtype] = Counter()
    for header in read_headers(folder).values():
        if header.dtype in _DTYPES:
            numbers[_DTYPES[header.dtype]] += math.prod(header.shape)
    return max(numbers, key=numbers.__getitem__, default=None)


def is_pointer(path: Path) -> bool:
    """Whether the file is a Git LFS pointer instead of the file itself."""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS)) == LFS
    except OSError:
        return False


@contextmanager
def open_tensors(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file. Raises DamagedError if it is missing, truncated or something else."""
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.", REMEDY) from None
    except (SafetensorError, OSError) as error:
        if is_pointer(path):
            raise DamagedError(f"{path} is only a Git LFS pointer.", FETCH) from None
        raise DamagedError(f"{path} cannot be read: {error}.", REMEDY) from None


def _read_keys(path: Path) -> set[str]:
    with open_tensors(path) as stored:
        return set(stored.keys())
