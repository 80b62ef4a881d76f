"""The option `--platform`, and how JAX compiles.

All of it must happen before JAX starts, since JAX picks its devices once.
"""

import dataclasses
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Platform = Literal["auto", "cpu", "gpu", "tpu"]

_INSTALL = {
    "gpu": 'pip install "jax[cuda13]", or "jax[cuda12]" for an older driver',
    "tpu": 'pip install "jax[tpu]" on a machine with a TPU',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computing:
    """The options of every command that computes."""

    platform: Platform = "auto"
    """where to compute; auto: the accelerator that JAX finds, else the CPU"""


def start(options: Computing, quickly: bool = False) -> None:
    """Choose the platform, and keep compiled programs between runs.

    `quickly` is for programs that run once: XLA optimizes them less.

    **Raises:** `ValueError` if this machine does not have the platform.
    """
    import jax

    if quickly:
        _compile_quickly()
    # Accelerators would round float32 products; a configuration asks for it if wanted.
    if jax.config.jax_default_matmul_precision is None:  # type: ignore[attr-defined]
        jax.config.update("jax_default_matmul_precision", "float32")
    _use_compilation_cache()
    if options.platform != "auto":
        _use_platform(options.platform)


def _use_platform(platform: str) -> None:
    """Compute on this platform or fail; a user's own programs may use the CPU too."""
    import jax

    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    wanted = "cpu" if platform == "cpu" else f"{_plugin(platform)},cpu"
    jax.config.update("jax_platforms", wanted)
    try:
        found = jax.default_backend()
        jax.devices(platform)
        if found == platform:
            return
        reason = f"this program already computes on {found}"
    except (RuntimeError, AssertionError) as error:  # JAX asserts that plugins exist
        reason = next(iter(str(error).splitlines()), "").partition(" (set JAX")[0]
    # Unset a JAX_PLATFORMS of the same name, so that JAX can list what there is.
    jax.config.update("jax_platforms", None if platform in (before or "") else before)
    here = dict.fromkeys(device.platform for device in jax.devices())
    hint = f". To install it: {_INSTALL[platform]}" if platform in _INSTALL else ""
    raise ValueError(
        f"--platform {platform}: JAX finds no {platform} here "
        f"({reason or 'not installed'}); available: {', '.join(here)}{hint}"
    )


def _plugin(platform: str) -> str:
    """Return JAX's name of the platform: "gpu" would load every maker's plugin."""
    if platform != "gpu":
        return platform
    from importlib.metadata import distributions

    names = {distribution.name.lower() for distribution in distributions()}
    return "rocm" if any("jax-rocm" in name for name in names) else "cuda"


def cache_folder() -> Path:
    """Return the folder that keeps compiled programs between runs."""
    import pooch

    return Path(str(pooch.os_cache("eqprop"))) / "xla"


def _compile_quickly() -> None:
    """Make XLA optimize less, which saves a fifth of a short program's time.

    XLA reads the flag when it starts, and ends the program if it does not know it.  So
    the flag is set only for releases that have it.
    """
    if version("jaxlib").startswith("0.10."):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {given}".strip()


def _use_compilation_cache() -> None:
    """Keep compiled programs, small ones too, in our cache or in the user's."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # without a folder, every run compiles again
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # A full or missing cache costs time only, so that the user need not know.
    warnings.filterwarnings("ignore", ".*persistent compilation cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
