"""The parts of gpu.py. Each yields what it knows so far as a dict, so that a stop loses only what comes next."""

import itertools
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from resource import getrusage, RUSAGE_SELF
from typing import Any, NamedTuple

import limits
import numpy as np
import pretraining as pretraining_section
import segmentation as segmentation_section
import torch
import trunks
from gpu_resume import compare_runs
from limits import compare_steps, matrix_peak
from measuring import Sizes, wait_for_device
from steps import computing_dtype, device, dtype_name, Step
from torch.autograd import DeviceType
from torch.profiler import profile as record
from torch.profiler import ProfilerActivity

from beit_mm.config.reading import read_config
from beit_mm.doctor import attention as kernels
from beit_mm.doctor import machine as here
from beit_mm.doctor import reference, report
from beit_mm.doctor.diagnosis import examine
from beit_mm.doctor.speed import published_peak
from beit_mm.engine.hooks.machine_hook import device_name, KERNELS, only_kernels
from beit_mm.engine.optimizers.constructors import LayerDecayOptimWrapperConstructor

ROOT = Path(__file__).parents[2]
TRAJECTORY = ROOT / 'tests/reference/data/mim_trajectory.npz'
PACKAGES = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation', 'timm', 'transformers', 'numpy',
            'triton')  # yapf: disable
COMPILING = 20  # seconds: with fewer left, no further candidate is built
UNDER_LOAD = 'clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active'
Found = Iterator[dict[str, Any]]
Makers = dict[str, Callable[[], Step]]


class Run(NamedTuple):
    """How a part is run: tiny or not, the folder of all results, and when it is ended (time.monotonic)."""

    is_small: bool
    out: Path
    end: float

    def sizes(self, **whole: int) -> Sizes:
        """Of a benchmark's section: base, with `whole` instead, or tiny."""
        if self.is_small:
            limits.SIDES = (64, 256)
            return Sizes(rounds=1, batch=2, width=64, depth=6, size=48)
        return Sizes(**{**dict(rounds=3, batch=128, width=768, depth=12, size=224), **whole})


class Comparison:
    """Candidates that are built one after the other. One that fails is left out, and the others go on.

    Attributes:
        found: for the JSON. `first calls` of rows are seconds, with building and compiling.
    """

    def __init__(self, run: Run, sizes: Sizes):
        self.run, self.sizes = run, sizes
        self.found: dict[str, Any] = dict(rows=[], left_out=[], limits={}, published=published_peak(device_name()))

    def add(self, title: str, makers: Makers, steps: dict[str, Step] | None = None, batch: int = 0) -> dict[str, Step]:
        """Build candidates, compare them with `steps`, which are built already, and return all that work."""
        steps, first_calls = dict(steps or {}), {}
        for name, make in makers.items():
            start, reason = time.monotonic(), ''
            if self.run.end - start < COMPILING + 3 * len(steps):  # those must still be timed
                reason = 'no time was left'
            else:
                try:
                    steps[name] = make()
                    steps[name].run()
                    wait_for_device()
                    first_calls[name] = time.monotonic() - start
                except Exception as error:
                    steps.pop(name, None)
                    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
                    if str(error).startswith(kernels.REFUSALS):
                        reason = 'not offered here'
                    else:
                        traceback.print_exc()
            if reason:
                self.found['left_out'].append(dict(section=title, name=name, reason=reason))
        for row in compare_steps(title, steps, self.sizes.rounds, batch or self.sizes.batch):
            seconds = {'seconds of the first call': first_calls[row.name]} if row.name in first_calls else {}
            self.found['rows'].append(asdict(replace(row, figures={**row.figures, **seconds})))
        self.found['limits'] |= {dtype_name(dtype): matrix_peak(dtype) for dtype in {s.dtype for s in steps.values()}}
        return steps


def machine(run: Run) -> Found:
    facts = here.describe(torch.device(device()))
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
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
    """Ours with each switch and the peers; then what torch.compile makes of ours, with each type of the tokenizer."""
    sizes = run.sizes(batch=256)
    dtypes = dict(float32='', bfloat16=', bfloat16 tokenizer', float16=', float16 tokenizer')
    compiled = {', blocks compiled': ['blocks'], ', all compiled': ['blocks', 'encoder'],
                ', tokenizer compiled': ['encoder']}  # yapf: disable
    eager = {f'ours{dtypes[name]}': dict(encode_dtype=name) for name in ('bfloat16', 'float16')}
    eager['ours, activation checkpointing'] = dict(with_cp=True)
    switches = {
        f'ours{dtypes[dtype]}{text}': dict(encode_dtype=dtype, **{f'compile_{part}': True for part in parts})
        for (text, parts), dtype in itertools.product(compiled.items(), ('float16', 'float32', 'bfloat16'))
    }
    makers = pretraining_section.pretraining_steps(sizes, {**eager, **switches})
    makers.pop('ours, float32', None)
    late = {name: makers.pop(name) for name in switches}
    with_kernels = {f'ours, {name} attention': partial(only, name, makers['ours']) for name in KERNELS}
    comparison, title = Comparison(run, sizes), pretraining_section.title(sizes)
    steps = comparison.add(title, {**makers, **with_kernels})
    yield comparison.found
    again = {name: steps[name] for name in ('ours', "the release's steps", 'MMPretrain') if name in steps}
    comparison.add(f'{title}, with torch.compile', late, again)
    yield comparison.found


def only(kernel: str, make: Callable[[], Step]) -> Step:
    """A step with one kernel of attention."""
    step = make()

    def call():
        with only_kernels([kernel]):
            step.run()

    return Step(call, step.dtype)


def profile(run: Run) -> Found:
    """A pre-training step by operator and by kernel of the GPU; clocks and power while it runs."""
    step = pretraining_section.pretraining_steps(run.sizes(batch=256), {})['ours']()
    for _ in range(3):
        step.run()
    is_gpu, count = device() == 'cuda', 3
    wait_for_device()
    peak = torch.cuda.max_memory_allocated() if is_gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as recorder:
        start = time.perf_counter()
        for _ in range(count):
            step.run()
        wait_for_device()
        wall = time.perf_counter() - start
    events = recorder.key_averages()
    key = 'self_device_time_total' if is_gpu else 'self_cpu_time_total'  # microseconds

    def largest(of_device: bool) -> list[dict[str, Any]]:
        chosen = [event for event in events if (event.device_type == DeviceType.CUDA) == of_device]
        chosen = sorted(chosen, key=lambda event: -getattr(event, key))[:25]
        return [dict(name=e.key, calls=e.count / count, ms=getattr(e, key) / count / 1e3) for e in chosen]

    busy = sum(getattr(e, key) for e in events if (e.device_type == DeviceType.CUDA) == is_gpu) / 1e6
    found: dict[str, Any] = dict(images=run.sizes(batch=256).batch, ms=1e3 * wall / count, busy=busy / wall)
    found.update(peak_memory=peak, operators=largest(False), kernels=largest(True))
    yield found
    if is_gpu:
        for _ in range(12):  # which the GPU still computes while nvidia-smi looks
            step.run()
        command = ['nvidia-smi', f'--query-gpu={UNDER_LOAD}', '--format=csv']
        look = subprocess.run(command, capture_output=True, text=True, timeout=20)
        wait_for_device()
        yield dict(found, under_load=look.stdout + look.stderr)


def attention(run: Run) -> Found:
    """Output and gradients with a learned bias at base's width, by kernel: whether they are right, and how fast."""
    dtype, where = computing_dtype(), torch.device(device())
    comparison, verdicts = Comparison(run, run.sizes()), []
    attends = kernels.kernels(here.find_compiler(where) is not None, where)
    for tokens in (64, 197, 257, 577) if run.is_small else (197, 577, 1025, 1601):
        heads, images = (1, 1) if run.is_small else (12, max(64 * 197 // tokens, 1))
        case = kernels.draw_case(tokens, dtype, where)
        found = [kernels.examine(name, attend, case) for name, attend in attends.items()]
        verdicts += [dict(v._asdict(), problem=v.problem and str(v.problem)) for v in found]
        qkv = torch.randn(images, tokens, 3, heads, kernels.CHANNELS, device=where, dtype=dtype)
        bias = torch.randn(1, heads, tokens, tokens + -tokens % 8, device=where, dtype=dtype)
        gradient = torch.randn(images, heads, tokens, kernels.CHANNELS, device=where, dtype=dtype)
        taken = {name: attends[name] for name, *_, status, _ in found if status in ('OK', 'wrong')} | {
            'written out': kernels.exact
        }
        makers = {
            name: partial(Step, partial(kernels.differentiate, attend, qkv, bias, gradient), dtype)
            for name, attend in taken.items()
        }
        title = f'attention and its gradients, {tokens} tokens, {heads} heads, {images} images'
        comparison.add(title, makers, batch=images)
        yield dict(comparison.found, verdicts=verdicts)


def doctor(run: Run) -> Found:
    """`beit-mm doctor --config ... --out machine.py`, with the report for people too."""
    if run.is_small:
        kernels.LENGTHS = report.LENGTHS = (64, 197)
    config = str(ROOT / 'configs' / ('demo/pretrain.py' if run.is_small else 'beit_pretrain.py'))
    result = examine(read_config(config), minutes=0.3 if run.is_small else 1.1)
    yield dict(diagnosis=result.as_json(), report=list(report.describe(result)))
    if result.step:
        result.write(config, run.out / 'machine.py')


def finetuning(run: Run, **whole: int) -> Found:
    """Of base, and its inference."""
    sizes = run.sizes(**whole)
    comparison = Comparison(run, sizes)
    for what, makers in {
        'fine-tuning step': trunks.fine_tuning_steps(sizes),
        'inference': trunks.inference_steps(sizes),
    }.items():
        wanted = {name: make for name, make in makers.items() if not name.endswith(', float32')}
        comparison.add(trunks.title(what, sizes), wanted)
        yield comparison.found


def large(run: Run) -> Found:
    return finetuning(run, width=1024, depth=24, batch=64)


def segmentation(run: Run) -> Found:
    sizes = run.sizes(batch=2, size=640)
    models = segmentation_section.segmentors(sizes)
    rows = segmentation_section.compare_tests(models, sizes)
    yield dict(rows=[asdict(row) for row in rows])
    rows += segmentation_section.compare_training(models, sizes)
    yield dict(rows=[asdict(row) for row in rows])


def resume(run: Run) -> Found:
    return compare_runs(run.is_small)
