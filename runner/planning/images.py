"""Images as samples: how an input wants them prepared, and folders of them as an array.

Pillow reads them. It is an optional dependency, `pip install 'runner[images]'`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# The keys of an [[input]] table that say how images are prepared.
IMAGE_KEYS = frozenset({"kind", "scale", "mean", "std", "color", "layout", "resize", "pixels"})
_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
_COLORS = {"rgb": 3, "bgr": 3, "gray": 1}
# The axis of the channels by layout.
_LAYOUTS = {"nchw": 1, "nhwc": 3}
_SCALE = 1 / 255
_PIXEL_TYPES = ("float32", "uint8")
_HOW_TO_SAY = (
    "Say it in a .toml beside the model, under its [[input]]: shape = [1, 3, 224, 224], "
    'kind = "image", mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225].'
)


@dataclass(frozen=True)
class Preparation:
    """How an image becomes an input: (pixel * scale - mean) / std, by channel.

    Pixels are from 0 to 255, so that `scale` is 1/255 where the model takes 0 to 1. `mean` and
    `std` have a number for each channel, in the order of `color` (rgb, bgr or gray). An image is
    resized to the input's height and width; or, with `resize`, its shorter side to so many pixels,
    of which the middle is taken.
    """

    scale: float = _SCALE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = "rgb"
    layout: str = "nchw"
    resize: int | None = None
    # The type and the order of the channels of the pixels that a converted model takes, if it is to
    # prepare them itself.
    pixel_dtype: str = "float32"
    pixel_color: str = "rgb"

    def as_option(self) -> dict[str, Any]:
        """Return what a model does that prepares its pixels itself, as the stages are told it."""
        return {
            "dtype": self.pixel_dtype,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "swapped": self.color != self.pixel_color,
            "axis": _LAYOUTS[self.layout],
        }

    def take_pixels(self) -> Preparation:
        """Return how an image becomes pixels for such a model."""
        return Preparation(1.0, color=self.pixel_color, layout=self.layout, resize=self.resize)


def read_preparation(
    table: Mapping[str, Any], shape: Sequence[int], dtype: str, where: str
) -> Preparation | None:
    """Read how images are prepared from an [[input]] table; None if it is of no images.

    Raises `BadInput`.
    """
    if "kind" not in table:
        if stray := sorted(IMAGE_KEYS & set(table)):
            raise BadInput(f"{where}: '{stray[0]}' is for images.", 'Say kind = "image" too.')
        return None
    if table["kind"] != "image":
        raise BadInput(f"{where}: there is no kind {table['kind']!r:.50}.", 'Known: "image".')
    layout = table.get("layout", "nchw")
    if layout not in _LAYOUTS:
        raise BadInput(f"{where}: the layout is {' or '.join(_LAYOUTS)}, not {layout!r:.50}.")
    channels = shape[1 if layout == "nchw" else 3] if len(shape) == 4 else 0
    if len(shape) != 4 or shape[0] != 1 or channels not in (1, 3):
        raise BadInput(
            f"{where}: an image of the layout {layout} has a shape such as "
            f"{'[1, 3, 224, 224]' if layout == 'nchw' else '[1, 224, 224, 3]'}, not {list(shape)}."
        )
    color = table.get("color", "rgb" if channels == 3 else "gray")
    if _COLORS.get(color) != channels:
        raise BadInput(f"{where}: color = {color!r:.50} does not fit {channels} channels.")
    if dtype == "uint8":
        if {"scale", "mean", "std"} & set(table):
            raise BadInput(f"{where}: an input of uint8 takes pixels as they are.")
        table = {**table, "scale": 1.0}
    elif dtype != "float32":
        raise BadInput(f"{where}: an image is float32 or uint8, not {dtype}.")
    (scale,) = _read_numbers(table, "scale", _SCALE, 1, where)
    std = _read_numbers(table, "std", 1.0, channels, where)
    if 0 in std or not scale:
        raise BadInput(f"{where}: neither scale nor std can be 0.")
    resize = table.get("resize")
    height, width = _find_size(shape, layout)
    if resize is not None and not (type(resize) is int and max(height, width) <= resize <= 1 << 14):
        raise BadInput(
            f"{where}: resize is the shorter side's pixels, at least {max(height, width)}."
        )
    mean = _read_numbers(table, "mean", 0.0, channels, where)
    pixels = _read_pixels(table.get("pixels", {}), channels, where)
    return Preparation(scale, mean, std, color, layout, resize, *pixels)


def _read_pixels(table: Any, channels: int, where: str) -> tuple[str, str]:
    """Return the type and the color of the pixels that a model takes which prepares them itself."""
    usual = "rgb" if channels == 3 else "gray"
    if not isinstance(table, dict) or set(table) - {"dtype", "color"}:
        form = f'{{dtype = "uint8", color = "{usual}"}}'
        raise BadInput(f"{where}: pixels is a table such as {form}.")
    dtype, color = table.get("dtype", "float32"), table.get("color", usual)
    if dtype not in _PIXEL_TYPES or _COLORS.get(color) != channels:
        raise BadInput(
            f"{where}: pixels are of dtype {' or '.join(_PIXEL_TYPES)}, and of a color of "
            f"{channels} channels."
        )
    return dtype, color


def _read_numbers(
    table: Mapping[str, Any], key: str, default: float, count: int, where: str
) -> tuple[float, ...]:
    value = table.get(key, default)
    given = value if isinstance(value, list) else [value] * count
    plain = all(type(number) in (int, float) and math.isfinite(number) for number in given)
    if len(given) != count or not plain:
        raise BadInput(f"{where}: {key} is a number{f', or {count}' if count > 1 else ''}.")
    return tuple(map(float, given))


def _find_size(shape: Sequence[int], layout: str) -> tuple[int, int]:
    """Return height and width."""
    return (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])


def write_images(
    folder: Path,
    target: Path,
    shape: Sequence[int],
    dtype: str,
    preparation: Preparation | None,
    most: int,
) -> tuple[int, int]:
    """Prepare a folder's images as `target`, a .npy of shape (samples, *shape).

    They come in the order of their paths, from subfolders too; of more than `most`, some are taken
    at even distances. Return how many were taken, and how many there are. Raises `BadInput`.
    """
    if preparation is None:
        raise BadInput(
            f"{folder} is a folder of images, and nothing says how the model takes them: a guess "
            "of mean and scale would give a model that is wrong without a word.",
            _HOW_TO_SAY,
        )
    found = list_images(folder)
    paths = [found[i * len(found) // most] for i in range(most)] if len(found) > most else found
    try:
        import PIL.Image
    except ImportError:
        raise BadInput(
            "Images are read with Pillow, which is not installed.",
            "pip install pillow; or give the samples as .npz or .npy.",
        ) from None
    import numpy as np  # late: most runs are given no images

    array = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.dtype(dtype), shape=(len(paths), *shape)
    )
    for row, path in zip(array, paths, strict=True):
        try:
            with PIL.Image.open(path) as image:
                row[0] = prepare_image(image, shape, preparation)
        except BadInput:
            raise
        except Exception as error:  # decoders raise errors of any type
            raise BadInput(f"{path} cannot be read as an image: {str(error)[:200]}") from None
    array.flush()
    return len(paths), len(found)


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder and its subfolders by path. Raises `BadInput` without any."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise BadInput(
            f"{folder} holds no images.", f"Images end in {', '.join(sorted(_SUFFIXES))}."
        )
    return found


def prepare_image(
    image: Image, shape: Sequence[int], preparation: Preparation
) -> np.ndarray[Any, Any]:
    """Return an image as a float32 array of shape `shape[1:]`. Raises `BadInput`."""
    import PIL.Image

    if image.mode.startswith(("I", "F")):
        raise BadInput(
            f"{getattr(image, 'filename', 'An image')} has more than 8 bits a channel "
            f"({image.mode}), which would be cut off.",
            "Prepare such samples yourself, and give them as .npz or .npy.",
        )
    plain = image.convert("L" if preparation.color == "gray" else "RGB")
    height, width = _find_size(shape, preparation.layout)
    if preparation.resize is None:
        plain = plain.resize((width, height), PIL.Image.Resampling.BILINEAR)
    else:
        # As torchvision's Resize and CenterCrop do it.
        short, long = sorted(plain.size)
        other = preparation.resize * long // short
        wide = plain.size[0] >= plain.size[1]
        size = (other, preparation.resize) if wide else (preparation.resize, other)
        plain = plain.resize(size, PIL.Image.Resampling.BILINEAR)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        plain = plain.crop((left, top, left + width, top + height))
    import numpy as np

    pixels = np.asarray(plain, np.float32).reshape(height, width, -1)
    if preparation.color == "bgr":
        pixels = pixels[:, :, ::-1]
    mean, std = np.array(preparation.mean, np.float32), np.array(preparation.std, np.float32)
    values: np.ndarray[Any, Any] = (pixels * np.float32(preparation.scale) - mean) / std
    return values.transpose(2, 0, 1) if preparation.layout == "nchw" else values
