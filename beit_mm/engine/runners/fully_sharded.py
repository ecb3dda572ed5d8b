"""Training of models that do not fit one device: parameters, gradients and moments in shards over all processes."""

import inspect
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn, Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from beit_mm.checkpoint.files import BACKEND
from beit_mm.errors import UserError
from beit_mm.registry import STRATEGIES

from .resuming import GRADIENTS, is_between_updates, shard_like

POLICIES = dict(
    float32=MixedPrecisionPolicy(),
    bfloat16=MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32),
)


@STRATEGIES.register_module()
class FullyShardedStrategy(DDPStrategy):
    """Torch's `fully_shard` of every block of the trunk, then of the trunk, then of the model, for FlexibleRunner.

    A block's parameters are whole while it computes, and in shards before and after. Frozen parameters and buffers
    stay whole. Checkpoints are those of the plain Runner: either resumes the other's, with any number of processes.
    Torch refuses to copy a model in shards, so hooks that average weights, such as EMAHook, need DDP.
    Config: `runner_type = 'FlexibleRunner'` and `strategy = dict(type='beit_mm.FullyShardedStrategy')`.

    Args:
        num_shards: a divisor of the number of processes, such as those of one machine: every machine then holds the
            whole model and exchanges gradients only. None: one shard per process.
        block_dtype: 'bfloat16': blocks are gathered and compute in it, also in evaluation. Weights, their updates and
            the sums of their gradients stay float32. 'float32' leaves the arithmetic to the optimizer wrapper.
        reshard_after_forward: whether blocks are gathered again for the backward pass instead of being kept.
        save_timeout: seconds that a process waits for the others before a checkpoint is written.
        **kwargs: of MMEngine's DDPStrategy but model_wrapper.

    Raises:
        UserError: If an argument does not fit, or the model has no backbone with blocks.
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
        if block_dtype not in POLICIES:
            raise UserError(f'block_dtype must be one of {", ".join(POLICIES)}, got {block_dtype!r}')
        super().__init__(**kwargs)
        self.num_shards = num_shards or self.world_size
        if self.world_size % self.num_shards:
            raise UserError(f'num_shards must divide the {self.world_size} processes, got {num_shards}')
        self.block_policy = POLICIES[block_dtype]
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
            raise UserError(f'FullyShardedStrategy needs a backbone with blocks, got {type(model).__name__}')
        frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
        if frozen and 'ignored_params' not in inspect.signature(fully_shard).parameters:
            raise UserError(
                'FullyShardedStrategy needs a newer torch for a model with frozen parameters, '
                f'got torch {torch.__version__}: update torch, or train without the strategy'
            )
        num_copies = self.world_size // self.num_shards
        shape = (num_copies, self.num_shards) if num_copies > 1 else (self.num_shards,)
        names = ('copies', 'shards')[-len(shape) :]
        mesh = init_device_mesh(torch.device(get_device()).type, shape, mesh_dim_names=names)
        options = dict(mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        if frozen:
            options['ignored_params'] = frozen
        for block in trunk.blocks:
            fully_shard(block, mp_policy=self.block_policy, **options)
        # So that the trunk can be called alone, as KNNHook does. A class token bottleneck calls `read_blocks` instead,
        # and then uses the trunk's norm and biases, which therefore stay gathered.
        if getattr(model, 'bottleneck', None) is None:
            fully_shard(trunk, **options)
        else:
            fully_shard(trunk, **{**options, 'reshard_after_forward': False})
            register_fsdp_forward_method(trunk, 'read_blocks')
        fully_shard(model, **options)
        for module in model.modules():
            if any(isinstance(parameter, DTensor) for parameter in module.parameters(recurse=False)):
                module.register_load_state_dict_pre_hook(_shard_state_dict)

    def save_checkpoint(
        self, filename: str, *, save_optimizer=True, save_param_scheduler=True, extra_ckpt=None, callback=None
    ) -> None:
        """Gather everything on the main process, which writes and verifies the file. All processes must call it.

        Raises:
            RuntimeError: If a process does not call it within save_timeout; names it.
        """
        if self.distributed:
            dist.monitored_barrier(self._all_ranks, self.save_timeout, wait_all_ranks=True)
        # Gathered here, since hooks run on the main process alone.
        checkpoint = dict(extra_ckpt or {}, state_dict=gather(self.model.state_dict()))
        if save_optimizer and hasattr(self, 'optim_wrapper'):
            checkpoint['optimizer'] = gather(self.optim_state_dict())
        parameters = self.model.named_parameters() if is_between_updates(self) else ()
        gradients = gather({name: p.grad for name, p in parameters if p.grad is not None})
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

    def load_checkpoint(self, filename: str, *, map_location='cpu', **kwargs) -> dict:
        """Every process reads the whole file into its main memory and takes its shards, whatever map_location says."""
        return super().load_checkpoint(filename, map_location='cpu', **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        parameters = [parameter for group in self.optim_wrapper.optimizer.param_groups for parameter in group['params']]
        state = {
            index: {key: shard_like(value, parameters[index]) for key, value in values.items()}
            for index, values in state_dict['state'].items()
        }
        super().load_optim_state_dict(dict(state_dict, state=state))


def gather(part):
    """A nested dict with shards as whole tensors on the CPU of the main process; other processes get None for each."""
    if isinstance(part, dict):
        return {key: gather(value) for key, value in part.items()}
    if isinstance(part, DTensor):
        part = part.full_tensor()
    if isinstance(part, Tensor):
        return part.cpu() if is_main_process() else None
    return part


def _shard_state_dict(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Pre-load hook: whole tensors become shards. It runs after the hooks that fit weights to the model."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in state_dict:
            state_dict[prefix + name] = shard_like(state_dict[prefix + name], parameter)
