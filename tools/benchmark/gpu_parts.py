"""The parts of gpu.py. Each yields what it knows so far as a dict, so that a stop loses only what comes next."""

import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from resource import getrusage, RUSAGE_SELF
from typing import Any

import numpy as np
import pretraining as pretraining_section
import segmentation as segmentation_section
import torch
import trunks
from gpu_comparison import Comparison, COMPILING, Found, Run
from gpu_resume import compare_runs
from measuring import wait_for_device
from steps import computing_dtype, device, Step
from torch.autograd import DeviceType
from torch.profiler import profile as record
from torch.profiler import ProfilerActivity

from beit_mm.config.reading import read_config
from beit_mm.doctor import attention as kernels
from beit_mm.doctor import machine as here
from beit_mm.doctor import reference, report
from beit_mm.doctor.diagnosis import examine
from beit_mm.engine.hooks.machine_hook import KERNELS, only_kernels
from beit_mm.engine.optimizers.constructors import LayerDecayOptimWrapperConstructor
from beit_mm.visualization.report import versions

ROOT = Path(__file__).parents[2]
TRAJECTORY = ROOT / 'tests/reference/data/mim_trajectory.npz'
PEERS = ('timm', 'triton')  # packages that may be missing
UNDER_LOAD = (
    'driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,'
    'clocks_event_reasons.active'
)


def machine(run: Run) -> Found:
    facts = here.describe(torch.device(device())) | versions()
    for name in filter(find_spec, PEERS):
        facts[name] = import_module(name).__version__
    yield dict(facts=facts)


def trajectory(run: Run) -> Found:
    """20 steps whose losses and gradient norms the BEiT release printed, in float32 and as recipes have it."""
    found = {}
    with np.load(TRAJECTORY) as file, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for dtype in ('float32', 'bfloat16'):
            losses, norms = train_as_released(file, dtype)
            errors = [np.abs(got / file[name] - 1).max() for name, got in dict(loss=losses, grad_norm=norms).items()]
            found[dtype] = dict(loss_error=float(errors[0]), norm_error=float(errors[1]), losses=losses.tolist())
            yield dict(found, expected=file['loss'].tolist())


def train_as_released(file: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradient norms of all steps of the file."""
    model = reference.pretraining_model(reference.read_numbers()).to(device())
    wrapper = LayerDecayOptimWrapperConstructor(dict(reference.OPTIMIZER, dtype=dtype))(model)
    losses, norms = [], []
    for step, rate in enumerate(file['lr']):
        for group in wrapper.optimizer.param_groups:
            group['lr'] = float(rate)
        images, tokens, mask = (torch.from_numpy(file[name][step]).to(device()) for name in ('x', 'token_ids', 'mask'))
        with wrapper.optim_context(model):
            loss = model.loss(images, tokens.unflatten(1, (4, 4)), mask.unflatten(1, (4, 4)))['loss']
        wrapper.update_params(loss)
        wrapper.scalars.flush(wrapper.message_hub)
        losses.append(loss.item())
        norms.append(wrapper.message_hub.get_scalar('train/grad_norm').current())
    return np.array(losses), np.array(norms)


def pretraining(run: Run) -> Found:
    """Ours with each type of the tokenizer beside the peers, then all compiled; then every other switch by itself."""
    sizes, what = run.sizes(batch=256), pretraining_section
    eager = {f'ours, {dtype} tokenizer': dict(encode_dtype=dtype) for dtype in ('float16', 'bfloat16')}
    both = dict(compile_blocks=True, compile_encoder=True)
    best = {f'{name}, all compiled': {**switches, **both} for name, switches in {**eager, 'ours': {}}.items()}
    others = {'ours, activation checkpointing': dict(with_cp=True), 'ours, blocks compiled': dict(compile_blocks=True)}
    others |= {'ours, tokenizer compiled': dict(compile_encoder=True)}
    makers = what.pretraining_steps(sizes, {**eager, **best, **others})
    kernel = {f'ours, {name} attention': partial(only, name, makers['ours']) for name in KERNELS}
    first = {name: makers[name] for name in ('ours', *eager, "the release's steps", 'MMPretrain', *best)}
    second = {name: makers[name] for name in ('ours', 'ours, BEiT v2', *others)} | kernel
    comparison, title = Comparison(run, sizes), what.title(sizes)
    yield from comparison.add_all({title: first})
    yield from comparison.add_all({f'{title}, other switches': second})


def only(kernel: str, make: Callable[[], Step]) -> Step:
    """A step with one kernel of attention."""
    step = make()

    def call():
        with only_kernels([kernel]):
            step.run()

    return Step(call, step.dtype)


def profile(run: Run) -> Found:
    """A pre-training step by operator and by kernel of the GPU; clocks and power while it runs."""
    sizes, count, is_gpu = run.sizes(batch=256), 3, device() == 'cuda'
    step = pretraining_section.pretraining_steps(sizes, {})['ours']()

    def run_steps() -> float:
        wait_for_device()
        start = time.perf_counter()
        for _ in range(count):
            step.run()
        wait_for_device()
        return time.perf_counter() - start

    run_steps()
    wall = run_steps()  # without the profiler, which takes time of its own
    peak = torch.cuda.max_memory_allocated() if is_gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as recorder:
        run_steps()
    events = [event for event in recorder.key_averages() if not event.is_user_annotation]  # which hold others
    key = 'self_device_time_total' if is_gpu else 'self_cpu_time_total'  # microseconds

    def largest(of_device: bool) -> list[dict[str, Any]]:
        chosen = [event for event in events if (event.device_type == DeviceType.CUDA) == of_device]
        chosen = sorted(chosen, key=lambda event: -getattr(event, key))[:25]
        return [dict(name=e.key, calls=e.count / count, ms=getattr(e, key) / count / 1e3) for e in chosen]

    busy = sum(getattr(e, key) for e in events if (e.device_type == DeviceType.CUDA) == is_gpu) / 1e6
    found: dict[str, Any] = dict(images=sizes.batch, ms=1e3 * wall / count, busy=busy / wall)
    found.update(peak_memory=peak, operators=largest(False), kernels=largest(True))
    yield found
    if is_gpu:
        command = ['nvidia-smi', f'--query-gpu={UNDER_LOAD}', '--format=csv']
        look = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while look.poll() is None:
            run_steps()
        yield dict(found, under_load=look.communicate()[0])


def attention(run: Run) -> Found:
    """Output and gradients with a learned bias at base's width, by kernel: whether they are right, and how fast."""
    dtype, where = computing_dtype(), torch.device(device())
    comparison, verdicts = Comparison(run, run.sizes()), []
    lengths = (64, 197, 257, 577) if run.is_small else (197, 576, 577, 1025, 1601)
    plain = kernels.kernels(False, where)
    offered = kernels.kernels(here.find_compiler(where) is not None, where)
    with_flex = {name: offered[name] for name in (kernels.AS_TORCH_CHOOSES, 'flex') if 'flex' in offered}
    rounds = [('', plain, tokens) for tokens in lengths]
    rounds += [(', with Flex', with_flex, tokens) for tokens in lengths if with_flex]  # last, since it compiles
    for text, attends, tokens in rounds:
        if text and run.end - time.monotonic() < COMPILING:
            break
        heads, images = (1, 1) if run.is_small else (12, max(64 * 197 // tokens, 1))
        case = kernels.draw_case(tokens, dtype, where)
        found = [kernels.examine(name, attend, case) for name, attend in attends.items()]
        verdicts += [dict(v._asdict(), problem=v.problem and str(v.problem)) for v in found]
        qkv = torch.randn(images, tokens, 3, heads, kernels.CHANNELS, device=where, dtype=dtype)
        bias = torch.randn(1, heads, tokens, tokens + -tokens % 8, device=where, dtype=dtype)
        gradient = torch.randn(images, heads, tokens, kernels.CHANNELS, device=where, dtype=dtype)
        taken = {name: attends[name] for name, *_, status, _ in found if status in ('OK', 'wrong')}
        makers = {
            name: partial(Step, partial(kernels.differentiate, attend, qkv, bias, gradient), dtype)
            for name, attend in (taken if text else {**taken, 'written out': kernels.exact}).items()
        }
        title = f'attention and its gradients, {tokens} tokens, {heads} heads, {images} images{text}'
        comparison.add(title, makers, batch=images)
        yield dict(comparison.found, verdicts=verdicts)


def doctor(run: Run) -> Found:
    """`beit-mm doctor --config ... --out machine.py`, with the report for people too."""
    if run.is_small:
        kernels.LENGTHS = report.LENGTHS = (64, 197)
    config = str(ROOT / 'configs' / ('demo/pretrain.py' if run.is_small else 'beit_pretrain.py'))
    minutes = 0.3 if run.is_small else (run.end - time.monotonic() - 10) / 60
    result = examine(read_config(config), minutes=minutes)
    yield dict(diagnosis=result.as_json(), report=list(report.describe(result)))
    if result.step:
        result.write(config, run.out / 'machine.py')


def finetuning(run: Run, **whole: int) -> Found:
    """Of base, and its inference."""
    sizes = run.sizes(**whole)
    tables = {'fine-tuning step': trunks.fine_tuning_steps(sizes), 'inference': trunks.inference_steps(sizes)}
    wanted = {
        trunks.title(what, sizes): {name: make for name, make in makers.items() if not name.endswith(', float32')}
        for what, makers in tables.items()
    }
    return Comparison(run, sizes).add_all(wanted)


def large(run: Run) -> Found:
    return finetuning(run, width=1024, depth=24, batch=64)


def segmentation(run: Run) -> Found:
    """Tests and training steps; if the results of the tests differ, the steps are timed all the same."""
    sizes, rows, errors = run.sizes(batch=2, size=640), [], []
    models = segmentation_section.segmentors(sizes)
    for compare in (segmentation_section.compare_tests, segmentation_section.compare_training):
        try:
            rows += [asdict(row) for row in compare(models, sizes)]
        except Exception as error:
            traceback.print_exc()
            errors.append(error)
        yield dict(rows=rows)
    if errors:
        raise errors[0]


def resume(run: Run) -> Found:
    return compare_runs(run.is_small)
