"""MMPretrain's random augmentation and erasing, which take uint8 images of three channels, for any bands and depth."""

import mmpretrain.datasets.transforms as host
import numpy as np
from mmcv.transforms import Compose

from beit_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandAugment(host.RandAugment):
    """MMPretrain's RandAugment. Images of other than three bands change three bands at a time, all by the same draws.

    Images of 16 bits only turn, shear and move: the changes of colour are for 8 bits.
    """

    def transform(self, results: dict) -> dict | None:
        image = results['img']
        if is_picture(image):
            return super().transform(results)
        steps = [self.transforms[index] for index in self.random_policy_indices()]
        if image.dtype != np.uint8:
            steps = [step for step in steps if isinstance(step, (host.Rotate, host.Shear, host.Translate))]
        bands, parts, state = np.atleast_3d(image), [], np.random.get_state()
        for start in range(0, bands.shape[2], 3):
            np.random.set_state(state)
            part = bands[..., start : start + 3]
            width = part.shape[2]
            part = np.concatenate([part] + [part[..., -1:]] * (3 - width), axis=2)
            parts.append(Compose(steps)(dict(results, img=part))['img'][..., :width])
        return dict(results, img=np.concatenate(parts, axis=2).reshape(image.shape))


@TRANSFORMS.register_module()
class RandomErasing(host.RandomErasing):
    """MMPretrain's RandomErasing. Other bands than three are filled with the mean of the colours, 16 bits in scale."""

    def _fill_pixels(self, img: np.ndarray, top: int, left: int, h: int, w: int) -> np.ndarray:
        if is_picture(img):
            return super()._fill_pixels(img, top, left, h, w)
        shape, scale = (h, w, *img.shape[2:]), np.iinfo(img.dtype).max / 255
        if self.mode == 'const':
            patch = np.full(shape, np.mean(self.fill_color))
        elif self.fill_std is None:
            patch = np.random.uniform(0, 256, shape)
        else:
            patch = np.random.normal(np.mean(self.fill_color), np.mean(self.fill_std), shape)
        img[top : top + h, left : left + w] = (patch.clip(0, 255) * scale).astype(img.dtype)
        return img


def is_picture(image: np.ndarray) -> bool:
    """Whether an image is what most steps of the hosts take: uint8 (H, W, 3)."""
    return image.dtype == np.uint8 and image.shape[2:] == (3,)
