"""Rules for tyro: read numbers and convolutions from words of the command line.

tyro's own rules repeat Python's messages ("invalid literal for int() with base 10").
These name the word that was given and what is expected.
"""

from types import NoneType
from typing import Any, get_args, get_origin

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

NUMBERS = ConstructorRegistry()


@NUMBERS.primitive_rule
def _one(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read int, float, and unions of them, with None or without."""
    kinds = get_args(info.type) or (info.type,)
    if not {int, float} & set(kinds) or not {int, float, NoneType} >= set(kinds):
        return None
    names = {NoneType: "{None}", int: "INT", float: "FLOAT"}
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(name for kind, name in names.items() if kind in kinds),
        instance_from_str=lambda words: _parsed(words[0], kinds),
        is_instance=lambda value: isinstance(value, (int, *kinds)),
        str_from_instance=lambda value: [str(value)],
    )


@NUMBERS.primitive_rule
def _many(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read tuple[int, ...] and tuple[float, ...]."""
    kind, *rest = get_args(info.type) or (None,)
    if get_origin(info.type) is not tuple or rest != [...] or kind not in (int, float):
        return None
    name = "INT" if kind is int else "FLOAT"
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{name} [{name} ...]]",
        instance_from_str=lambda words: tuple(_parsed(w, (kind,)) for w in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(item) for item in value],
    )


@NUMBERS.primitive_rule
def _named(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read dict[str, float], written NAME NUMBER NAME NUMBER …"""
    if get_origin(info.type) is not dict or get_args(info.type) != (str, float):
        return None

    def parse(words: list[str]) -> dict[str, float]:
        if len(words) % 2:
            raise ValueError(f"{words[-1]!r} has no number; write NAME NUMBER pairs")
        pairs = zip(words[::2], words[1::2], strict=True)
        return {name: _parsed(word, (float,)) for name, word in pairs}

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME FLOAT [NAME FLOAT ...]]",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [
            str(w) for pair in value.items() for w in pair
        ],
    )


@NUMBERS.primitive_rule
def _convolutions(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """tuple[Convolution, ...], each CHANNELS:KERNEL[:POOL][:sSTRIDE][:pPADDING]."""
    kind = next(iter(get_args(info.type)), None)
    if get_origin(info.type) is not tuple or "Convolution" not in str(kind):
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[CHANNELS:KERNEL[:POOL][:sSTRIDE][:pPADDING] ...]",
        instance_from_str=lambda words: tuple(map(_convolution, words)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [_written(item) for item in value],
    )


def _convolution(word: str) -> Any:
    from ..systems import Convolution

    options: dict[str, Any] = {}
    channels, _, rest = word.partition(":")
    kernel, *parts = rest.split(":")
    for part in parts:
        number = part[1:].isdigit()
        if part[:1] == "s" and number:
            options["stride"] = int(part[1:])
        elif part[:1] == "p" and number:
            options["padding"] = int(part[1:])
        else:
            options["pool"] = part
    if not (channels.isdigit() and kernel.isdigit()):
        raise ValueError(
            f"{word!r} is not a convolution; write CHANNELS:KERNEL, e.g. 32:5. You may "
            "add :max, :average or :softmax (pool), :s2 (stride) and :p1 (padding)"
        )
    return Convolution(int(channels), int(kernel), **options)


def _written(item: Any) -> str:
    parts = [f"{item.channels}:{item.kernel}"]
    parts += [item.pool] if item.pool else []
    parts += [f"s{item.stride}"] if item.stride != 1 else []
    parts += [f"p{item.padding}"] if item.padding else []
    return ":".join(parts)


def _parsed(word: str, kinds: tuple[Any, ...]) -> Any:
    if NoneType in kinds and word == "None":
        return None
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(word)
            except ValueError:
                pass
    what = "a number" if float in kinds else "a whole number"
    raise ValueError(
        f"{word!r} is not {what}" + (", nor None" if NoneType in kinds else "")
    )
