"""Loading an image from wherever its data set keeps it."""
import io
from typing import Optional

import mmcv
import numpy as np
import simplejpeg
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image

from ..registry import TRANSFORMS

SIMPLEJPEG = 'simplejpeg'
JPEG_START = b'\xff\xd8'
ORIENTATION = 0x0112  # of EXIF


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """LoadImageFromFile that also takes encoded bytes, so that a pipeline serves every source.

    Decodes `img_bytes` where the data set gives them (WebDatasetShards, HuggingFaceImages), else the file `img_path`,
    and gives the same: `img` uint8 (H, W, 3), BGR unless told otherwise, `img_shape` and `ori_shape`.

    Args:
        imdecode_backend: MMCV's, or 'simplejpeg': JPEG files by libjpeg-turbo, about twice as fast as Pillow and equal
            to it; damaged, turned and CMYK ones by Pillow, all other files by OpenCV, as MMCV does by itself.
        to_float32, color_type, ignore_empty, backend_args: of MMCV's LoadImageFromFile.

    Raises:
        ValueError: If the bytes are no image; names it. With `ignore_empty` the data set takes another one instead.
    """

    def transform(self, results: dict) -> Optional[dict]:
        if 'img_bytes' in results:
            content = results.pop('img_bytes')
        elif self.imdecode_backend == SIMPLEJPEG:
            content = self._read(results['img_path'])
            if content is None:
                return None
        else:
            return super().transform(results)
        reason = 'the decoder found no image'
        try:
            image = self._decode(content)
        except Exception as error:  # every backend has its own kinds
            image, reason = None, error
        if image is None:
            if self.ignore_empty:
                return None
            raise ValueError(f'{results["img_path"]} cannot be decoded as an image: {reason}')
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _read(self, path: str) -> Optional[bytes]:
        """A file's bytes; None where it cannot be read and that is to be ignored."""
        try:
            if self.file_client_args is not None:
                return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
            return fileio.get(path, backend_args=self.backend_args)
        except Exception:  # every backend has its own kinds
            if self.ignore_empty:
                return None
            raise

    def _decode(self, content: bytes) -> np.ndarray:
        if self.imdecode_backend != SIMPLEJPEG:
            return mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        if self.color_type == 'color' and content[:2] == JPEG_START and _is_upright(content):
            try:
                if simplejpeg.decode_jpeg_header(content)[2] not in ('CMYK', 'YCCK'):
                    return simplejpeg.decode_jpeg(content, 'BGR')
            except ValueError:  # damage that Pillow may still read
                pass
        # Others as LoadImageFromFile reads them in tests: Pillow would cut 16 bits to white.
        return mmcv.imfrombytes(content, flag=self.color_type, backend='pillow' if content[:2] == JPEG_START else 'cv2')


def _is_upright(content: bytes) -> bool:
    """Whether a JPEG file is to be shown as it is stored, which only its EXIF data would deny."""
    if b'Exif\0\0' not in content[:4096]:
        return True
    return Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1) in (0, 1)
