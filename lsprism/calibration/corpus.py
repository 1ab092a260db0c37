"""From a text source to token windows: random ones for calibration, consecutive ones for perplexity."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lsprism.calibration.hub_text import HUB_NAME, extract_first_line, load_hub_dataset, load_wikitext2
from lsprism.errors import CorpusError
from lsprism.models.tokens import encode_plain, encode_text, find_start_tokens
from lsprism.paths import ASSETS, expand
from lsprism.records.model_plan import ModelSource
from lsprism.specs import BosName, CalibrationSpec

NOTHING = torch.empty(0, dtype=torch.int64)  # no tokens in front of a window
SUFFIXES = (".txt", ".jsonl", ".parquet")
NAMES = ("auto", "wikitext2", "embedded", "self")  # sources that are not file or dataset names
SOURCES = "wikitext2, embedded, a .txt, .jsonl or .parquet file, or OWNER/NAME of a Hub dataset"


@dataclass(frozen=True)
class Corpus:
    """A text and its name in reports."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()


def resolve_source(spec: CalibrationSpec, model: ModelSource) -> str:
    """The calibration source, with `auto` resolved: the embedded text for the demo model, else WikiText-2."""
    if spec.source != "auto":
        return spec.source
    return "embedded" if model.kind == "demo" else "wikitext2"


def read_text(source: str, column: str = "text", split: str = "train") -> Corpus:
    """Read the text of `load_wikitext2`, `embedded`, a local file, or a Hub dataset (OWNER/NAME or OWNER/NAME:CONFIG).

    Of a Hub dataset, only the first rows are read, up to hub_text.MOST_CHARACTERS. `column` is the column or key with
    the text; rows are joined by blank lines. `split` selects the split of a dataset. The embedded calibration text is
    used for the split train only. Raises CorpusError if there is no text.
    """
    if source == "embedded":
        name = "calibration" if split == "train" else "evaluation"
        corpus = Corpus(f"embedded {name} text", _read_file(ASSETS / f"{name}.txt", column))
    elif source == "wikitext2":
        corpus = Corpus(f"WikiText-2 raw ({split})", load_wikitext2(split))
    elif is_file_name(source):
        corpus = Corpus(Path(source).name, _read_file(expand(source), column))
    else:
        corpus = Corpus(f"{source} ({split})", load_hub_dataset(source, column, split))
    if not corpus.text.strip():
        raise CorpusError(f"{source!r} contains no text.", f"Choose another source: {SOURCES}.")
    return corpus


def is_file_name(source: str) -> bool:
    """Whether `source` is a local file: it exists, has a known suffix, or cannot be a dataset name.

    A dot alone does not decide: wikimedia/wikipedia:20231101.en is a Hub dataset.
    """
    if source in NAMES:
        return False
    if source.startswith(".") or not HUB_NAME.fullmatch(source):
        return True
    path = expand(source)
    return path.suffix.lower() in SUFFIXES or os.path.exists(path)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Tokens [n] int64 of the whole text, with the tokenizer's own start tokens and without end tokens."""
    body, start = prepare_tokens(tokenizer, text, "each")
    return torch.cat([start, body])


def prepare_tokens(tokenizer: PreTrainedTokenizerBase, text: str, bos: BosName) -> tuple[Tensor, Tensor]:
    """Tokens [n] int64 to cut windows from, and the tokens [k] in front of every window.

    `bos`: with "each", every window starts with the tokenizer's start tokens (some tokenizers have none). With "first",
    the text is tokenized with special tokens, so that only its first window starts with BOS.
    """
    if bos == "first":
        return torch.tensor(encode_text(tokenizer, text), dtype=torch.int64), NOTHING
    start = find_start_tokens(tokenizer)
    ids = encode_plain(tokenizer, text)
    body = ids[len(start) :] if start and ids[: len(start)] == start else ids  # the text may contain them
    return torch.tensor(body, dtype=torch.int64), torch.tensor(start, dtype=torch.int64)


def cut_windows(tokens: Tensor, samples: int, length: int, seed: int, start: Tensor = NOTHING) -> Tensor:
    """[samples, length] windows, each `start` [k] followed by consecutive tokens of `tokens` [n].

    Their positions are drawn uniformly from [0, n - (length - k)], so windows may overlap.
    """
    size = length - len(start)
    _check_length(tokens, size, "--length", len(start))
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(tokens) - size + 1, (samples,), generator=generator)
    return _add_start(tokens.unfold(0, size, 1)[places], start)


def split_windows(tokens: Tensor, context: int, start: Tensor = NOTHING) -> Tensor:
    """[count, context] windows, each `start` [k] followed by the next tokens of `tokens` [n]; drops the remainder."""
    size = context - len(start)
    _check_length(tokens, size, "--context", len(start))
    count = len(tokens) // size
    return _add_start(tokens[: count * size].view(count, size), start)


def _add_start(pieces: Tensor, start: Tensor) -> Tensor:
    return torch.cat([start.expand(len(pieces), -1), pieces], dim=1) if len(start) else pieces


def _check_length(tokens: Tensor, size: int, option: str, start: int) -> None:
    if size < 1:
        raise CorpusError(f"{option} {size + start} leaves no room after the BOS token.", "Choose a larger value.")
    if len(tokens) < size:
        message = f"The text has {len(tokens)} tokens, too few for one window of {size + start}."
        raise CorpusError(message, f"Choose a longer text, or {option} of at most {len(tokens) + start}.")


def _read_file(path: Path, column: str) -> str:
    try:
        _check_file(path)
        if path.suffix.lower() == ".txt":
            return path.read_text(encoding="utf-8-sig")
        rows = _iter_jsonl_rows if path.suffix.lower() == ".jsonl" else _iter_parquet_rows
        return "\n\n".join(_iter_texts(rows(path, column), column))
    except UnicodeDecodeError as error:
        message = f"'{path}' is not UTF-8 text: {error.reason} at byte {error.start}."
        raise CorpusError(message, "Save it as UTF-8 and try again.") from error
    except OSError as error:
        message = f"'{path}' cannot be read: {error.strerror or error}."
        raise CorpusError(message, "Check the path and its permissions.") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise CorpusError(f"'{path}' is a folder.", "Name one .txt, .jsonl or .parquet file in it.")
    if not path.is_file():
        raise CorpusError(f"File '{path}' not found.", f"Choose {SOURCES}.")
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"'{path}' has the unsupported suffix '{path.suffix}'.", f"Choose {SOURCES}.")


def _iter_jsonl_rows(path: Path, column: str) -> Iterator[tuple[str, object]]:
    """Yield the location of each row, for error messages, and its value in `column`."""
    # str.splitlines would also split at U+2028, which JSON allows inside strings.
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"'{path}', line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where} is not JSON: {error}.", "Fix or remove that line.") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{where} is not a JSON object.", f'Write every line as {{"{column}": "..."}}.')
        if column not in row:
            raise _make_column_error(where, column, list(row))
        yield where, row[column]


def _iter_parquet_rows(path: Path, column: str) -> Iterator[tuple[str, object]]:
    """Like _iter_jsonl_rows."""
    import pyarrow as pa
    from pyarrow import parquet

    with path.open("rb") as opened:
        try:
            file = parquet.ParquetFile(opened)
            if column not in file.schema_arrow.names:
                raise _make_column_error(f"'{path}'", column, file.schema_arrow.names)
            values = file.read(columns=[column])[column].to_pylist()
        # The file is already open, so an OSError here is about its content.
        except (pa.ArrowException, OSError) as error:
            message = f"'{path}' is not a complete parquet file: {extract_first_line(error)}."
            raise CorpusError(message, "Write or download it again.") from error
    for number, value in enumerate(values, start=1):
        yield f"'{path}', row {number}", value


def _iter_texts(rows: Iterator[tuple[str, object]], column: str) -> Iterator[str]:
    """Yield the texts of the rows. Skips missing values; raises CorpusError for any other value that is not text."""
    for where, value in rows:
        if isinstance(value, str):
            # JSON can encode an unpaired surrogate, which is not a character and which tokenizers reject.
            yield value.encode("utf-8", "replace").decode("utf-8")
        elif value is not None:
            message = f"{where}: column '{column}' contains {type(value).__name__}, not text."
            raise CorpusError(message, "Choose another column with --column.")


def _make_column_error(where: str, column: str, columns: list[str]) -> CorpusError:
    there = ", ".join(columns) or "none"
    return CorpusError(f"{where} has no column '{column}'.", f"Set --column to one of: {there}.")
