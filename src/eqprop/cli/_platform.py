"""Where a command computes: `--platform`, and how JAX compiles there.

Everything here must happen before JAX starts: it picks its devices once.
"""

import dataclasses
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Platform = Literal["auto", "cpu", "gpu", "tpu"]

_INSTALL = {
    "gpu": 'pip install "jax[cuda13]", or "jax[cuda12]" where the driver is older',
    "tpu": 'pip install "jax[tpu]" on a machine that has one',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computing:
    """The options of every command that computes."""

    platform: Platform = "auto"
    """where to compute; auto: an accelerator where JAX finds one, else the CPU"""


def start(options: Computing, quickly: bool = False) -> None:
    """Choose the platform, and keep compiled programs between runs.

    `quickly` is for programs that run once: XLA optimizes them less.

    **Raises:** `ValueError` for a platform that this machine does not have.
    """
    import jax

    if quickly:
        _compile_quickly()
    # float32 is float32 on an accelerator too, unless a configuration says otherwise.
    if jax.config.jax_default_matmul_precision is None:  # type: ignore[attr-defined]
        jax.config.update("jax_default_matmul_precision", "float32")
    _use_compilation_cache()
    if options.platform != "auto":
        _use_platform(options.platform)


def _use_platform(platform: str) -> None:
    """Compute there or not at all; the CPU stays at hand for a user's own programs."""
    import jax

    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    wanted = "cpu" if platform == "cpu" else f"{_plugin(platform)},cpu"
    jax.config.update("jax_platforms", wanted)
    try:
        found = jax.default_backend()
        jax.devices(platform)
        if found == platform:
            return
        reason = f"this program has begun to compute on {found}"
    except (RuntimeError, AssertionError) as error:  # JAX asserts that plugins exist
        reason = next(iter(str(error).splitlines()), "").partition(" (set JAX")[0]
    # Nor where JAX_PLATFORMS has named the same: what there is must still be told.
    jax.config.update("jax_platforms", None if platform in (before or "") else before)
    here = dict.fromkeys(device.platform for device in jax.devices())
    hint = f". To install it: {_INSTALL[platform]}" if platform in _INSTALL else ""
    raise ValueError(
        f"--platform {platform}: JAX finds none here ({reason or 'not installed'}); "
        f"available: {', '.join(here)}{hint}"
    )


def _plugin(platform: str) -> str:
    """JAX's own word: 'gpu' would ask for every maker's plugin at once."""
    if platform != "gpu":
        return platform
    from importlib.metadata import distributions

    names = {distribution.name.lower() for distribution in distributions()}
    return "rocm" if any("jax-rocm" in name for name in names) else "cuda"


def cache_folder() -> Path:
    """Where compiled programs are kept between runs."""
    import pooch

    return Path(str(pooch.os_cache("eqprop"))) / "xla"


def _compile_quickly() -> None:
    """Have XLA optimize less: a fifth of a short program's time.

    XLA reads this when it starts, and ends a program that names a flag it does not
    know: other releases are left alone.
    """
    if version("jaxlib").startswith("0.10."):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {given}".strip()


def _use_compilation_cache() -> None:
    """Keep compiled programs, small ones too, unless the user has set a place."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # nowhere to keep them: every run compiles anew
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # A cache that is full or has gone costs time, and is nobody's concern but ours.
    warnings.filterwarnings("ignore", ".*persistent compilation cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
