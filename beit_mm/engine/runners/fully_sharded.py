"""Training of models that do not fit one device: parameters, gradients and moments in shards over all processes."""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn, Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy
from torch.distributed.tensor import distribute_tensor, DTensor
from torch.nn import functional as F

from beit_mm.checkpoint.files import BACKEND
from beit_mm.registry import STRATEGIES

from .resume_position import GRADIENTS, is_between_updates

BLOCK_DTYPES = ('float32', 'bfloat16')


@STRATEGIES.register_module()
class FullyShardedStrategy(DDPStrategy):
    """Torch's `fully_shard` of every block of the trunk, then of the trunk, then of the model, for FlexibleRunner.

    A block's parameters are whole while it computes, and in shards before and after. Frozen parameters, such as a
    tokenizer's, and buffers stay whole. Names do not change, and checkpoints are those of the plain Runner: either
    resumes the other's, with any number of processes. A single process shards nothing.

        runner_type = 'FlexibleRunner'
        strategy = dict(type='beit_mm.FullyShardedStrategy')

    Args:
        num_shards: into how many shards, a divisor of the processes: those of one machine, for example; machines then
            hold the same and exchange gradients only. None for as many as there are processes.
        block_dtype: 'bfloat16': blocks are gathered and compute in it, also in evaluation, from weights that are
            stored, updated and whose gradients are added in float32; 'float32' leaves that to the optimiser wrapper.
        reshard_after_forward: whether blocks are gathered again for the backward pass, or else kept until then.
        save_timeout: seconds that a process waits for the others when a checkpoint is written, in which all take part.
        **kwargs: of MMEngine's DDPStrategy but model_wrapper.

    Raises:
        ValueError: If block_dtype is another one, num_shards does not divide the processes, or the model has no
            backbone with blocks.
    """

    def __init__(
        self,
        *,
        num_shards: int | None = None,
        block_dtype: str = 'float32',
        reshard_after_forward: bool = True,
        save_timeout: float = 600.0,
        **kwargs,
    ):
        if block_dtype not in BLOCK_DTYPES:
            raise ValueError(f'block_dtype must be one of {", ".join(BLOCK_DTYPES)}, got {block_dtype!r}')
        super().__init__(**kwargs)
        self.num_shards = num_shards or self.world_size
        if self.world_size % self.num_shards:
            raise ValueError(f'num_shards must divide the {self.world_size} processes, got {num_shards}')
        self.block_dtype = block_dtype
        self.reshard_after_forward = reshard_after_forward
        self.save_timeout = timedelta(seconds=save_timeout)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model = self.convert_model(model)
        if self.distributed:
            self._shard(model)
            self._all_ranks = dist.new_group(backend='gloo')  # the only one whose barrier names who is missing
        return model.to(get_device())

    def _shard(self, model: nn.Module) -> None:
        trunk = getattr(model, 'backbone', None)
        if not hasattr(trunk, 'blocks'):
            raise ValueError(f'FullyShardedStrategy needs a backbone with blocks, got {type(model).__name__}')
        frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
        options = dict(mesh=self._mesh(), reshard_after_forward=self.reshard_after_forward, ignored_params=frozen)
        for block in trunk.blocks:
            if block.attn.bias_grid is not None:
                compute_bias_inside(block)
            if self.block_dtype == 'bfloat16':
                compute_in_bfloat16(block)
                # What comes in stays in float32, as it does under autocast.
                policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
                fully_shard(block, mp_policy=policy, **options)
            else:
                fully_shard(block, **options)
        fully_shard(trunk, **options)  # for whoever calls it alone, such as KNNHook
        fully_shard(model, **options)
        model.__deepcopy__ = _refuse_copies
        for module in model.modules():
            if any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
                module.register_load_state_dict_pre_hook(_shard_given)

    def _mesh(self) -> DeviceMesh:
        """All processes in one row, or a row for each set of shards."""
        rows = self.world_size // self.num_shards
        shape, names = (rows, self.num_shards), ('replicas', 'shards')
        if rows == 1:
            shape, names = shape[1:], names[1:]
        return init_device_mesh(torch.device(get_device()).type, shape, mesh_dim_names=names)

    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable | None = None,
    ) -> None:
        """Gather everything on the main process, which writes and verifies the file; all processes must call it.

        Raises:
            RuntimeError: If some do not within save_timeout.
        """
        if self.distributed:
            dist.monitored_barrier(self._all_ranks, self.save_timeout, wait_all_ranks=True)
        # Here, as hooks are called on the main process alone, which has the shards of others only once it has all.
        checkpoint = dict(extra_ckpt or {}, state_dict=gather(self.model.state_dict()))
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = gather(self.optim_state_dict())
        gradients = (
            gather(
                {
                    name: parameter.grad
                    for name, parameter in self.model.named_parameters()
                    if parameter.grad is not None
                }
            )
            if is_between_updates(self)
            else {}
        )
        if not is_main_process():
            return
        if save_param_scheduler and hasattr(self, 'param_schedulers'):
            checkpoint['param_schedulers'] = self.scheduler_state_dict()
        checkpoint['meta'] = dict(checkpoint.get('meta', {}), seed=self.seed, time=time.strftime('%Y%m%d_%H%M%S'))
        if callback is not None:
            callback(checkpoint)
        if GRADIENTS in checkpoint:
            checkpoint[GRADIENTS] = gradients
        save_checkpoint(checkpoint, filename, backend_args=dict(backend=BACKEND))

    def load_checkpoint(self, filename: str, *, map_location='cpu', callback: Callable | None = None, **kwargs) -> dict:
        """Every process reads the whole file into its main memory and takes its shards, whatever map_location says."""

        def shard_then_call(checkpoint: dict) -> None:
            own = dict(self.model.named_parameters())
            for name, gradient in checkpoint.get(GRADIENTS, {}).items():
                checkpoint[GRADIENTS][name] = shard_like(gradient, own[name])
            if callback is not None:
                callback(checkpoint)

        return super().load_checkpoint(filename, map_location='cpu', callback=shard_then_call, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """A whole state, as the plain Runner's."""
        own = [parameter for group in self.optim_wrapper.optimizer.param_groups for parameter in group['params']]
        state = {
            index: {key: shard_like(value, own[index]) for key, value in values.items()}
            for index, values in state_dict['state'].items()
        }
        super().load_optim_state_dict(dict(state_dict, state=state))


def compute_bias_inside(block: nn.Module) -> None:
    """Let a block make its position bias from its table itself, while its parameters are whole.

    The trunk asks for the bias ahead of the block, which keeps it out of a compiled block. Torch gathers a block's
    parameters when it is called and takes its gradients when it has gone backward: the table must be used in between.
    """
    compute = block.attn.bias
    asked: list = []

    def note(*arguments) -> None:
        asked[:] = arguments

    def add(block: nn.Module, inputs: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
        x, shared = inputs
        own = compute(*asked)
        return x, own if shared is None else own + shared

    block.attn.bias = note
    block.register_forward_pre_hook(add)  # fully_shard puts its own before it


def compute_in_bfloat16(block: nn.Module) -> None:
    """Let a block whose parameters are bfloat16 compute under autocast, whoever calls it."""
    block.forward = torch.autocast(torch.device(get_device()).type, torch.bfloat16)(block.forward)
    for norm in (block.norm1, block.norm2):  # in float32, which autocast sees to on GPUs alone
        norm.forward = partial(_norm_in_float32, norm)


def _norm_in_float32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


def _refuse_copies(memo: dict) -> None:
    raise ValueError('a model in shards cannot be copied: hooks that average weights, such as EMAHook, need DDP')


def gather(part):
    """A nested dict's shards as whole tensors on the CPU of the main process; the others help and get None for them."""
    if isinstance(part, dict):
        return {key: gather(value) for key, value in part.items()}
    if isinstance(part, DTensor):
        part = part.full_tensor()
    if isinstance(part, Tensor):
        return part.cpu() if is_main_process() else None
    return part


def shard_like(value, parameter: Tensor):
    """Return the shard of this process of a value that belongs to a parameter, such as its moments.

    What has another shape than the parameter, such as a count, and what belongs to a whole parameter stays as it is.
    """
    if not isinstance(parameter, DTensor) or getattr(value, 'shape', None) != parameter.shape:
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def _shard_given(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook: whole tensors become shards. It comes after those by which a model fits what it is given."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in state_dict:
            state_dict[prefix + name] = shard_like(state_dict[prefix + name], parameter)
