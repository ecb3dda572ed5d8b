"""A convolution of up-sampled maps, computed at their own size.

A k x k convolution of a map x up-sampled by a linear U is the sum over its taps of shifted maps: conv(U x) =
sum_t S_t U (W_t x), with the 1 x 1 convolution W_t of the tap and its shift S_t (zeros beyond the border). Most of
the work is to mix channels, and W_t x does it at the resolution of x. Only rounding differs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def _shifted_upsampling(source: int, target: int, kernel_size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Bilinear up-sampling along one axis, then the shift of each tap, (kernel_size, source, target).

    It is computed at every call, on the device, which costs little and waits for nothing.
    """
    identity = torch.eye(source, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    upsampling = F.interpolate(identity[None], size=target, mode='linear', align_corners=align_corners)[0]
    reach = kernel_size // 2
    padded = F.pad(upsampling, (reach, reach))
    return torch.stack([padded[:, tap : tap + target] for tap in range(kernel_size)]).to(like.dtype)


def conv_of_upsampled(weight: Tensor, level: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Convolve a map as if it were up-sampled bilinearly first.

    Args:
        weight: (C_out, C_in, k, k), k odd.
        level: (B, C_in, h, w).
        size: (H, W) after up-sampling.
        align_corners: of the up-sampling.

    Returns:
        (B, C_out, H, W), equal to `conv2d(interpolate(level, size, mode='bilinear'), weight, padding=k // 2)`.
    """
    num_out, _, kernel_size, _ = weight.shape
    batch, _, height, width = level.shape
    taps = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1], 1, 1)  # (k * k * C_out, C_in, 1, 1), rows first
    mixed = F.conv2d(level, taps).view(batch, kernel_size, kernel_size, num_out, height, width)
    columns = _shifted_upsampling(width, size[1], kernel_size, align_corners, mixed).flatten(0, 1)  # (k * w, W)
    rows = _shifted_upsampling(height, size[0], kernel_size, align_corners, mixed).flatten(0, 1)  # (k * h, H)
    mixed = mixed.permute(0, 3, 1, 4, 2, 5).reshape(batch, num_out, kernel_size * height, kernel_size * width)
    return rows.t() @ (mixed @ columns)  # (B, C_out, H, W)


def conv_of_joined(weight: Tensor, levels: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Convolve the concatenation of levels, as if all were up-sampled to the size of the first.

    Args:
        weight: (C_out, sum of C_i, k, k), k odd.
        levels: (B, C_i, h_i, w_i); the first has the size of the result.

    Returns:
        (B, C_out, h_0, w_0).
    """
    size = levels[0].shape[2:]
    parts = weight.split([level.shape[1] for level in levels], dim=1)
    full = [index for index, level in enumerate(levels) if level.shape[2:] == size]
    result = F.conv2d(
        torch.cat([levels[index] for index in full], dim=1),
        torch.cat([parts[index] for index in full], dim=1),
        padding=weight.shape[2] // 2,
    )
    for index, level in enumerate(levels):
        if index not in full:
            result = result + conv_of_upsampled(parts[index], level, size, align_corners)
    return result
