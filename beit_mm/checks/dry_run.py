"""A dry run of a config with a small copy of its model, on the CPU, for any model: its classes raise the errors."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, VISUALIZERS
from torch import nn
from torch.overrides import TorchFunctionMode

from beit_mm.config.parts import entries, get, use_plain_batch_norm, walk
from beit_mm.errors import UserError
from beit_mm.evaluation.metrics import describe_no_scores

from .blame import blame, other_values
from .course import on_cpu
from .labels import check_losses, runs_on_gpus_only
from .problems import Problem, suggest
from .samples import collate, cut, cut_size, draw, list_images, Listed, NotChecked, sides
from .small_parts import make_parts_small, pretend_to_be_trained

MAX_TRIALS = 6  # of other numbers, in search of a mend


class ReadKeys(dict):
    """A dict that notes in `read` which keys are asked for, also those that it lacks."""

    def __init__(self, items: dict):
        super().__init__(items)
        self.read: set = set()

    def __deepcopy__(self, memo):
        return self


def _noting(method):
    def read(self, *arguments):
        self.read.update(arguments[:1] or dict.keys(self))
        return method(self, *arguments)

    return read


for method in ('__getitem__', 'get', 'pop', '__iter__', 'keys', 'items'):
    setattr(ReadKeys, method, _noting(getattr(dict, method)))


class NoRandomWeights(TorchFunctionMode):
    """Fills new weights with a constant: drawing them would take most of the time of a small step."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if getattr(function, '__name__', '') in ('uniform_', 'normal_', 'trunc_normal_') and arguments:
            return arguments[0].detach().fill_(0.01)
        return function(*arguments, **(options or {}))


class DryRun:
    """Builds the parts of a config and runs a step and an evaluation of a small copy of its model.

    Args:
        cfg: plain dicts and lists.
        loaders: keys of the data loaders in use.
        lists: those whose data sets may list their files.
        folder: for temporary files.
        may_mend: whether to try other numbers if a step fails.

    Attributes:
        model: the whole model on the meta device; None if it cannot be built there.
        listed: the data set of every loader in use, as far as it can be built.
        drawn: a sample of each, as far as there is one.
    """

    def __init__(
        self, cfg: dict, loaders: tuple[str, ...], lists: tuple[str, ...], folder: Path, may_mend: bool = True
    ):
        self.cfg = cfg
        self.loaders = loaders
        self.lists = lists
        self.folder = folder
        self.may_mend = may_mend
        self.model: nn.Module | None = None
        self.listed: dict[str, Listed] = {}
        self.drawn: dict[str, Any] = {}
        self.scores: list[str] = []  # names of those that the metrics give
        self.cuts: dict[int, int] = {}  # sides of windows in the small copy and the config's
        self._built: tuple[int, nn.Module] | None = None

    def check(self) -> Iterator[Problem]:
        """All problems that building and running show."""
        problems = [*self._build_parts(), *check_losses(self.cfg, self.model), *self._draw_samples()]
        yield from problems
        if self.model is None or _is_model_wrong(problems):
            return
        drawn, problems = self.drawn.get('train_dataloader'), []
        is_for_cpus = not any(map(runs_on_gpus_only, self.model.modules()))
        if isinstance(self.cfg.get('optim_wrapper'), dict) and is_for_cpus:
            problems = self._at_any_size(partial(self._step, drawn), sides(drawn)[: None if self.may_mend else 1])
        if self.may_mend and drawn is not None and problems and problems[0].is_error:
            problems[0] = self._mend(problems[0])
        yield from problems
        evaluation = []
        for loader in () if _is_model_wrong(problems) else self.drawn:
            evaluator = loader.replace('dataloader', 'evaluator')
            if loader != 'train_dataloader' and self.cfg.get(evaluator) is not None:
                evaluation += self._at_any_size(partial(self._predict, loader, evaluator), sides(self.drawn[loader]))
        yield from evaluation or self._check_best()

    @contextmanager
    def _catch(self, problems: list[Problem], key: str, owners: dict[int, str] | None = None) -> Iterator[None]:
        """Add the problem behind an exception to a list."""
        try:
            yield
        except NotChecked as end:
            problems += [end.problem] if end.problem else []
        except Exception as error:
            problems.append(blame(error, self.cfg, key, owners, self.cuts))

    @staticmethod
    def _at_any_size(run: Callable[[int], list[Problem]], sizes: Iterable[int]) -> list[Problem]:
        """Run with images cut to each size: no problems if one works, else those of the last."""
        problems: list[Problem] = []
        for side in sizes:
            if not (problems := run(side)):
                break
        return problems

    def _build_parts(self) -> list[Problem]:
        """The model, the visualizer and the hooks."""
        problems: list[Problem] = []
        if isinstance(self.cfg.get('model'), dict):
            with self._catch(problems, 'model'), torch.device('meta'):
                self.model = MODELS.build(self._model_config())
        if isinstance(self.cfg.get('visualizer'), dict):
            with self._catch(problems, 'visualizer'):
                VISUALIZERS.build(dict(copy.deepcopy(self.cfg['visualizer']), name='dry run', vis_backends=None))
        hooks = {f'default_hooks.{name}': hook for name, hook in (self.cfg.get('default_hooks') or {}).items()}
        for key, hook in {**hooks, **dict(entries(self.cfg, 'custom_hooks'))}.items():
            if isinstance(hook, dict) and 'type' in hook:
                with self._catch(problems, key):
                    HOOKS.build({name: value for name, value in copy.deepcopy(hook).items() if name != 'priority'})
        return problems

    def _model_config(self) -> dict:
        model = ConfigDict(copy.deepcopy(self.cfg['model']))  # the hosts read attributes of `test_cfg`
        if self.cfg.get('data_preprocessor') is not None:  # the hosts' configs may name it outside of the model
            model.setdefault('data_preprocessor', copy.deepcopy(self.cfg['data_preprocessor']))
        return model

    def _draw_samples(self) -> list[Problem]:
        problems: list[Problem] = []
        sources = []
        for loader in self.loaders:
            source = {name: self.cfg[loader].get(name) for name in ('dataset', 'collate_fn')}
            if source not in sources:  # a test may be on the validation's images
                with self._catch(problems, loader):
                    self.listed[loader] = list_images(self.cfg, loader, self.folder, loader in self.lists)
                    self.drawn[loader] = draw(self.cfg, self.listed[loader])
                    sources.append(source)
        return problems

    def _mend(self, problem: Problem) -> Problem:
        """The problem at the key whose number is to blame, if another number there lets a step run."""
        part = problem.key if isinstance(get(self.cfg, problem.key), dict) else problem.key.rpartition('.')[0]
        if not part.startswith(('model', 'train_dataloader')):
            return problem
        for key, value in other_values(problem.sentence, self.cfg, part)[:MAX_TRIALS]:
            cfg = copy.deepcopy(self.cfg)
            holder, _, name = key.rpartition('.')
            get(cfg, holder)[name] = value
            trial = DryRun(cfg, ('train_dataloader',), self.lists, self.folder, may_mend=False)
            if not any(other.is_error for other in trial.check()):
                return Problem(key, f'{problem.sentence}; set {name}={value}')
        return problem

    def _step(self, sample: Any, side: int) -> list[Problem]:
        """The optimizer with its schedules, and a step on a sample if there is one."""
        problems: list[Problem] = []
        with self._catch(problems, 'model'):
            model = self._small_model(side).train()
        if problems:
            return problems
        options = ReadKeys(self.cfg['optim_wrapper'].get('paramwise_cfg') or {})
        with self._catch(problems, 'optim_wrapper'):
            wrapper = build_optim_wrapper(model, dict(on_cpu(self.cfg['optim_wrapper']), paramwise_cfg=options))
        if problems:
            return problems
        problems += self._check_options(options)
        for key, schedule in entries(self.cfg, 'param_scheduler'):
            with self._catch(problems, key):
                PARAM_SCHEDULERS.build(dict(schedule), default_args=dict(optimizer=wrapper, epoch_length=100))
        if sample is not None:
            with self._catch(problems, 'optim_wrapper', _owners(model)):
                batch = collate(self.cfg, 'train_dataloader', cut(sample, side), self._num_images())
                model.train_step(batch, wrapper)
        return problems

    def _small_model(self, side: int) -> Any:
        """A small copy of the model, built once for training and evaluation."""
        if self._built is None or self._built[0] != side:
            with NoRandomWeights():
                self._built = side, MODELS.build(self._small(side))
            pretend_to_be_trained(self._built[1])
        return self._built[1]

    def _num_images(self) -> int:
        """Two images; one where a training has one and its batch norm, not synchronised, would fail for that."""
        is_synchronised = any(node.get('type') == 'SyncBN' for _, node in walk(self.cfg['model'], ''))
        return 1 if self.cfg['train_dataloader'].get('batch_size') == 1 and not is_synchronised else 2

    def _small(self, side: int) -> dict:
        """The config of a model for one short step: our parts with few blocks, windows as large as the images."""
        model = self._model_config()
        use_plain_batch_norm(model)
        make_parts_small(model)
        preprocessor, test_cfg = model.get('data_preprocessor') or {}, model.get('test_cfg') or {}
        if test_cfg.get('mode') == 'slide' and {'crop_size', 'stride'} <= set(test_cfg):
            crop, stride = test_cfg['crop_size'], test_cfg['stride']
            test_cfg['crop_size'] = tuple(cut_size(each, side) for each in crop)
            self.cuts.update(zip(test_cfg['crop_size'], crop))
            test_cfg['stride'] = tuple(
                max(1, step * new // old) for step, new, old in zip(stride, test_cfg['crop_size'], crop)
            )
        for node in (preprocessor, preprocessor.get('test_cfg') or {}):
            if isinstance(node.get('size'), (list, tuple)):
                size, node['size'] = node['size'], tuple(cut_size(each, side) for each in node['size'])
                self.cuts.update(zip(node['size'], size))
        return model

    def _check_options(self, options: ReadKeys) -> Iterator[Problem]:
        """Options of the optimizer's constructor that it does not read, and patterns that match no parameter."""
        present, section = set(dict.keys(options)), 'optim_wrapper.paramwise_cfg'
        constructor = self.cfg['optim_wrapper'].get('constructor', 'DefaultOptimWrapperConstructor')
        for name in sorted(present - options.read):
            known = sorted(options.read - present)
            otherwise = f'it reads {", ".join(known)}; BEiT uses beit_mm.LayerDecayOptimWrapperConstructor'
            yield Problem(f'{section}.{name}', f'{constructor} does not read it; {suggest(name, known, otherwise)}')
        patterns = dict.get(options, 'custom_keys')
        if not isinstance(patterns, dict) or self.model is None:
            return
        parameters = [name if '.' in name else f'.{name}' for name, _ in self.model.named_parameters()]
        is_ours = any(type(module).__module__.startswith('beit_mm.') for module in self.model.modules())
        for pattern in patterns:
            if not any(pattern in name for name in parameters):
                words = [[word for word in name.split('.') if word and not word.isdigit()] for name in parameters]
                pieces = {'.'.join(name[at : at + size]) for name in words for size in (1, 2) for at in range(9)}
                sentence = f'matches no parameter of the model; {suggest(pattern, pieces, "remove it")}'
                yield Problem(f'{section}.custom_keys.{pattern}', sentence, is_error=is_ours)

    def _predict(self, loader: str, evaluator: str, side: int) -> list[Problem]:
        """A prediction and its metrics."""
        problems: list[Problem] = []
        owners = dict[int, str]()
        with self._catch(problems, 'model', owners):
            batch = collate(self.cfg, loader, cut(self.drawn[loader], side), 1)
            model = self._small_model(side).eval()
            owners.update(_owners(model))
            with torch.no_grad():
                outputs = model.val_step(batch)
        for key, node in () if problems else entries(self.cfg, evaluator):
            with self._catch(problems, key, owners):
                metric = METRICS.build(copy.deepcopy(node))
                metric.dataset_meta = getattr(self.listed[loader].dataset, 'metainfo', None)
                owners[id(metric)] = key
                metric.process(batch, [output if isinstance(output, dict) else output.to_dict() for output in outputs])
                prefix = f'{metric.prefix}/' if metric.prefix else ''
                scores = metric.compute_metrics(metric.results)
                if mistake := describe_no_scores(metric, scores):
                    raise UserError(mistake)
                self.scores += [f'{prefix}{name}' for name in scores]
        return problems

    def _check_best(self) -> Iterator[Problem]:
        """Scores for the best checkpoint that no metric gives."""
        wanted = get(self.cfg, 'default_hooks.checkpoint.save_best')
        for name in [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []:
            if self.scores and name not in (*self.scores, 'auto'):
                mend = suggest(name, self.scores, f'it gives {", ".join(self.scores)}')
                sentence = f'the evaluation gives no {name}; {mend}'
                yield Problem('default_hooks.checkpoint.save_best', sentence)


def _owners(model: nn.Module) -> dict[int, str]:
    """Key in the config of every module, by its id."""
    return {id(module): f'model.{name}'.rstrip('.') for name, module in model.named_modules()}


def _is_model_wrong(problems: list[Problem]) -> bool:
    return any(problem.is_error and problem.key.startswith('model') for problem in problems)
