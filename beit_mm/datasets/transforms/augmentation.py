"""RandAugment and RandomErasing with the hosts' draws and pixels, in a fraction of their time.

RandAugment's operations that change each pixel by its value alone are computed for 256 values and looked up. The
others (rotation, shear, translation, saturation, sharpness) are MMPretrain's.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from mmpretrain.datasets import transforms as host
from mmpretrain.datasets.transforms.auto_augment import RANDAUG_POLICIES

from beit_mm.registry import TRANSFORMS

VALUES = np.arange(256, dtype=np.uint8)
RAMP = np.repeat(VALUES, 3).reshape(256, 1, 3)  # an image with every value in every channel


def count_values(channel: np.ndarray) -> np.ndarray:
    """How often each of 256 values occurs in uint8 (H, W), int64 (256,); exact up to 2**24 pixels."""
    return cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel().astype(np.int64)


class ByTable:
    """Mixin that applies one of MMPretrain's operations to the ramp, and the result as a table to the image."""

    def transform(self, results: dict) -> dict:
        ramp = super().transform(dict(img=RAMP))['img']  # type: ignore[misc]  # MMPretrain's, by inheritance
        if ramp is not RAMP:  # the operation's probability may leave the image unchanged
            results['img'] = cv2.LUT(results['img'], np.ascontiguousarray(ramp[:, 0, 0]))
        return results


@TRANSFORMS.register_module()
class Invert(ByTable, host.Invert):
    """MMPretrain's Invert by a table."""


@TRANSFORMS.register_module()
class Posterize(ByTable, host.Posterize):
    """MMPretrain's Posterize by a table."""


@TRANSFORMS.register_module()
class Solarize(ByTable, host.Solarize):
    """MMPretrain's Solarize by a table."""


@TRANSFORMS.register_module()
class SolarizeAdd(ByTable, host.SolarizeAdd):
    """MMPretrain's SolarizeAdd by a table."""


@TRANSFORMS.register_module()
class Brightness(ByTable, host.Brightness):
    """MMPretrain's Brightness by a table."""


@TRANSFORMS.register_module()
class AutoContrast(host.AutoContrast):
    """MMPretrain's AutoContrast by a table for each channel, which depends on the channel's range alone."""

    def transform(self, results: dict) -> dict:
        channels = cv2.split(results['img'])
        ranges = np.array([cv2.minMaxLoc(channel)[:2] for channel in channels])  # (3, 2)
        ramp = np.clip(RAMP, *ranges.T).astype(np.uint8)
        table = super().transform(dict(img=ramp))['img']
        if table is not ramp:
            results['img'] = _look_up_each(channels, table)
        return results


@TRANSFORMS.register_module()
class Equalize(host.Equalize):
    """MMPretrain's Equalize, which is Pillow's, by a table for each channel."""

    def transform(self, results: dict) -> dict:
        if not self.random_disable():
            channels = cv2.split(results['img'])
            tables = np.stack([_equalizing_table(channel) for channel in channels], axis=-1)
            results['img'] = _look_up_each(channels, tables)
        return results


@TRANSFORMS.register_module()
class Contrast(host.Contrast):
    """MMPretrain's Contrast by a table, which depends on the mean grey value alone."""

    def transform(self, results: dict) -> dict:
        if self.random_disable():
            return results
        magnitude = self.magnitude if self.magnitude is not None else self.random_magnitude()
        factor = 1 + self.random_negative(magnitude)
        gray = cv2.cvtColor(results['img'], cv2.COLOR_BGR2GRAY)
        mean = round(cv2.sumElems(gray)[0] / gray.size)
        values = RAMP[:, 0].astype(np.float32)  # (256, 3)
        table = cv2.addWeighted(values, factor, np.full_like(values, mean), 1 - factor, 0)
        results['img'] = cv2.LUT(results['img'], np.clip(table[:, 0], 0, 255).astype(np.uint8))
        return results


def _equalizing_table(channel: np.ndarray) -> np.ndarray:
    """The table, uint8 (256,), that spreads the values of a channel uint8 (H, W) evenly, as Pillow's equalize."""
    counts = count_values(channel)
    step = int(counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step == 0:
        return VALUES
    below = np.cumsum(counts) - counts  # number of pixels below each value
    table = np.minimum((below + step // 2) // step, 255)
    table[0] = 0
    return table.astype(np.uint8)


def _look_up_each(channels: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    """Look up channels uint8 (H, W) in the columns of a table uint8 (256, ..., C); the image (H, W, C)."""
    columns = np.ascontiguousarray(table.reshape(256, len(channels)).T)
    return cv2.merge([cv2.LUT(channel, column) for channel, column in zip(channels, columns)])


TABLES = {
    cls.__name__: cls
    for cls in (AutoContrast, Brightness, Contrast, Equalize, Invert, Posterize, Solarize, SolarizeAdd)
}


@TRANSFORMS.register_module()
class RandAugment(host.RandAugment):
    """MMPretrain's RandAugment with the operations above by tables.

    Args:
        policies: see MMPretrain's RandAugment; where a type without a scope is the name of an operation above, that
            operation is used.
        **kwargs: see MMPretrain's RandAugment.
    """

    def __init__(self, policies: str | list[dict], **kwargs):
        policies = RANDAUG_POLICIES.get(policies, policies) if isinstance(policies, str) else policies
        if not isinstance(policies, str):  # MMPretrain refuses an unknown name
            policies = [
                dict(policy, type=f'beit_mm.{policy["type"]}') if policy['type'] in TABLES else policy
                for policy in policies
            ]
        super().__init__(policies, **kwargs)


@TRANSFORMS.register_module()
class RandomErasing(host.RandomErasing):
    """MMPretrain's RandomErasing; with `fill_std` the same noise, drawn in one call."""

    def _fill_pixels(self, img: np.ndarray, top: int, left: int, h: int, w: int) -> np.ndarray:
        if self.mode == 'const' or self.fill_std is None:
            return super()._fill_pixels(img, top, left, h, w)
        noise = np.random.standard_normal((h, w, 3)) * self.fill_std + self.fill_color
        img[top : top + h, left : left + w] = np.clip(noise, 0, 255)  # truncated to whole numbers, as by MMPretrain
        return img
