"""The machine that settings were measured on, and the attention kernels that were right there."""

import platform
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.hooks import Hook

from beit_mm.errors import UserError
from beit_mm.registry import HOOKS
from beit_mm.version import __version__

# How torch lets go of a kernel of scaled_dot_product_attention.
KERNELS = dict(
    math=torch.backends.cuda.enable_math_sdp,
    flash=torch.backends.cuda.enable_flash_sdp,
    efficient=torch.backends.cuda.enable_mem_efficient_sdp,
    cudnn=torch.backends.cuda.enable_cudnn_sdp,
)


def device_name(device: torch.device | None = None) -> str:
    """Name of a GPU, or of the processor; None for the device that a training takes."""
    if device is None:
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(device: torch.device | None = None) -> dict[str, str]:
    """What settings may depend on: the names of the device and the versions of torch and of this package."""
    return dict(device=device_name(device), torch=torch.__version__, beit_mm=__version__)


def allow_kernels(names: Collection[str]) -> None:
    """Let attention of this process take these kernels only, see KERNELS."""
    for name, enable in KERNELS.items():
        enable(name in names)


@contextmanager
def only_kernels(names: Sequence[str] | None) -> Iterator[None]:
    """Let attention take these kernels only, then all again; None changes nothing."""
    allow_kernels(KERNELS if names is None else names)
    try:
        yield
    finally:
        allow_kernels(KERNELS)


@HOOKS.register_module()
class MachineHook(Hook):
    """Refuses settings that `beit-mm doctor` measured on another machine, and lets attention take right kernels only.

    Args:
        machine: what `describe_machine` said where the settings were measured.
        attention: names of KERNELS; None for all of them.

    Raises:
        UserError: If this machine is another one, or there is no such kernel.
    """

    def __init__(self, machine: dict[str, str], attention: Sequence[str] | None = None):
        here = describe_machine()
        for name, value in here.items():
            if machine.get(name) != value:
                measured = ', '.join(f'{key} {text}' for key, text in machine.items())
                raise UserError(
                    f'these settings were measured elsewhere ({measured}), here {name} is {value}: run `beit-mm doctor '
                    '--config CONFIG --out machine.py` again, or set default_hooks.machine=None to use them as they are'
                )
        if attention is not None and not (attention and set(attention) <= set(KERNELS)):
            raise UserError(f'MachineHook.attention must name kernels of {", ".join(KERNELS)}, got {attention}')
        self.attention = attention

    def before_run(self, runner) -> None:
        if self.attention is not None:
            allow_kernels(self.attention)
