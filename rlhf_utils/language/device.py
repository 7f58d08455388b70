"""Which device, in which precision it computes, and what becomes of memory that a step has used."""

import ctypes
import gc
import sys
from contextlib import nullcontext
from functools import lru_cache

import torch

from rlhf_utils.environment import gpu_fraction, local_process, memory_is_tuned
from rlhf_utils.profiles import Profile


@lru_cache
def glibc() -> ctypes.CDLL | None:
    """The C library of most Linux systems, whose `malloc` gives torch its memory; None elsewhere."""
    try:
        library = ctypes.CDLL("libc.so.6") if sys.platform == "linux" else None
    except OSError:
        return None
    # musl, which some systems have instead, answers to that name, too.
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


# Of glibc's malloc.h; what they are set to, in bytes. Blocks larger than the first come from the system each
# time, as before: held, they would break memory up into gaps that no other block fits into.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT, MOST_KEPT = 32 * 2**20, 128 * 2**20


def keep_memory() -> None:
    """Has the process keep up to 128 MB of what a step has freed, at the end of its heap, for the next one.

    A step of a small model makes and frees the same blocks of some megabytes each time. By default glibc
    gives them back to the system, which hands them out again page by page, each page cleared: about a
    quarter of a step of pretraining (`tests/benchmarks/memory.py`). Results are the same to the last bit.
    Whoever has tuned glibc by its own variables has the last word.
    """
    if (library := glibc()) and not memory_is_tuned() and library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        library.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def give_back_memory() -> None:
    """To the system, what a stage has used: with 124 million weights the next one would else come on top of
    some gigabytes.
    """
    gc.collect()  # a Trainer and its parts refer to each other
    if device().type == "cuda":
        torch.cuda.empty_cache()
    if library := glibc():
        library.malloc_trim(0)


keep_memory()


@lru_cache
def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones.

    `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` make any processor an ordinary one, which has float32
    alone.
    """
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and bool(
        cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
    )


@lru_cache
def device() -> torch.device:
    """The GPU if there is one with room for this process's share of it (`RLHF_GPU_FRACTION`),
    else the CPU.
    """
    share = gpu_fraction()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # With several processes, each has a card of its own as far as there are enough.
    torch.cuda.set_device(local_process() % torch.cuda.device_count())
    free, total = torch.cuda.mem_get_info()
    if share < 1 and free < share * total:
        print(
            f"The GPU is full: {free / 2**30:.1f} GB are free, but RLHF_GPU_FRACTION={share:g} asks for "
            f"{share * total / 2**30:.1f} GB. "
            "Using the CPU instead; restart the kernel once others are done.",
            flush=True,
        )
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda")


def use_bf16(profile: Profile) -> bool:
    return profile.precision == "bf16" or (profile.precision == "auto" and has_bf16())


def autocast(profile: Profile):
    """bfloat16 for matrix products where the machine is good at it, else a context that does nothing."""
    if use_bf16(profile):
        return torch.autocast(device().type, dtype=torch.bfloat16)
    return nullcontext()


def computing_dtype() -> torch.dtype:
    """What matrix products are computed in here: bfloat16 inside `autocast`, if at all."""
    kind = device().type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
