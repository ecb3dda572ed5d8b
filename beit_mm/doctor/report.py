"""A diagnosis as text for a terminal: what is here, whether it is right, how fast it is, what to do."""

import textwrap
from collections.abc import Iterator

from .attention import LENGTHS, Verdict
from .diagnosis import Diagnosis

WIDTH, LINE = 31, 140  # of the first column and of all
AS_IT_IS = dict(break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
GIB = 2**30


def describe(result: Diagnosis) -> Iterator[str]:
    """Lines."""
    yield from _section('What is here', _machine(result))
    yield from _section('Is it right', _checks(result))
    yield from _section('How fast is the machine', _speeds(result))
    if result.step:
        yield from _section('How fast is the config', _step(result))
    yield from _section('What to do', _advice(result))


def _section(title: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield title
    for name, text in rows:
        yield from textwrap.wrap(f'  {name:{WIDTH}}{text}', LINE, subsequent_indent=' ' * (WIDTH + 2), **AS_IT_IS) or [
            ''
        ]
    yield ''


def _machine(result: Diagnosis) -> Iterator[tuple[str, str]]:
    facts = result.facts
    count = f'{facts["devices"]} x ' if facts['devices'] > 1 else ''
    has = 'bfloat16' if facts['bfloat16'] else 'no bfloat16'
    free = f'{facts["memory"] / GIB:.1f} GiB of memory, {facts["free_memory"] / GIB:.1f} free'
    yield 'device', f'{count}{facts["device"]}, {has}, {free}'
    threads = '' if facts['kind'] == 'cuda' else f', torch uses {facts["threads"]} threads'
    yield 'cores', f'{facts["cores"]}{threads}'
    cuda = [f'driver {facts["driver"]}'] if 'driver' in facts else []
    cuda += [f'cuDNN {facts["cudnn"]}'] if 'cudnn' in facts else []
    yield 'torch', ', '.join([f'{facts["torch"]}, torchvision {facts["torchvision"]}', *cuda])
    others = ', '.join(f'{name} {facts[name]}' for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg', 'numpy'))
    yield 'others', f'beit_mm {facts["beit_mm"]}, Python {facts["python"]}, {others}'
    yield 'compiler', facts['compiler'] or 'none, so torch.compile cannot be used'


def _checks(result: Diagnosis) -> Iterator[tuple[str, str]]:
    yield 'attention', f'a learned bias at {", ".join(map(str, LENGTHS))} tokens, against float64'
    for name in dict.fromkeys(verdict.kernel for verdict in result.verdicts):
        of_kernel = [verdict for verdict in result.verdicts if verdict.kernel == name]
        by_dtype = {
            dtype: [v for v in of_kernel if v.dtype == dtype] for dtype in dict.fromkeys(v.dtype for v in of_kernel)
        }
        texts: dict[str, list[str]] = {}
        for dtype, verdicts in by_dtype.items():
            texts.setdefault(_status(verdicts), []).append(dtype)
        yield (
            f'  {name}',
            '; '.join(f'{", ".join(dtypes)}: {text}' if len(texts) > 1 else text for text, dtypes in texts.items()),
        )
    for check in result.checks:
        if check.name.startswith('tokens'):
            text = f"{100 * check.error:.2f} % of float64's kept"
        else:
            text = f'OK, off by {check.error:.0e}' if check.error else 'OK, equal'
        yield (
            check.name,
            text if check.problem is None or not check.problem.is_error else f'WRONG: {check.problem.sentence}',
        )


def _status(verdicts: list[Verdict]) -> str:
    found = {verdict.status for verdict in verdicts}
    if 'wrong' in found:
        return f'WRONG at {", ".join(str(v.tokens) for v in verdicts if v.status == "wrong")} tokens'
    texts = dict(OK='OK', fixed='OK with a bias that does not learn', refused='not offered here')
    return ', '.join(texts[status] for status in texts if status in found)


def _speeds(result: Diagnosis) -> Iterator[tuple[str, str]]:
    speeds = result.speeds
    yield (
        'matrix products',
        ', '.join(f'{name} {_scaled(value, "FLOP/s")}' for name, value in speeds['products'].items()),
    )
    yield 'memory', f'{_scaled(speeds["memory"], "B/s")} read and written'
    yield 'decoding a JPEG', f'{speeds["decoding"]:.0f} images/s of 500 x 375 per core'
    if speeds['disk']:
        yield (
            'disk, this folder',
            f'{_scaled(speeds["disk"]["write"], "B/s")} written, {_scaled(speeds["disk"]["read"], "B/s")} read',
        )
    if 'sums' in speeds:
        yield 'sum over devices', f'{_scaled(speeds["sums"], "B/s")} (all-reduce)'


def _scaled(value: float, unit: str) -> str:
    for power, prefix in ((12, 'T'), (9, 'G'), (6, 'M')):
        if value >= 10**power:
            break
    return f'{value / 10**power:.3g} {prefix}{unit}'


def _step(result: Diagnosis) -> Iterator[tuple[str, str]]:
    step = result.step
    cut = f', cut to {step["side"]} of {step["whole_side"]} pixels' if step['side'] != step['whole_side'] else ''
    yield 'measured', f'steps with a batch of {step["images"]}{cut}, in {step["dtype"]}'
    for trial in step['trials']:
        gain = f'{trial["gain"]:.2f} times as fast, ' if trial['gain'] else ''
        yield f'  {trial["name"]}', f'{gain}{trial["status"]}{": " + trial["reason"] if trial["reason"] else ""}'
    published = step['share_of_published']
    shares = f'{step["share_of_measured"]:.0%} of the measured peak' + (
        f', {published:.0%} of the published one' if published else ''
    )
    yield 'one device', f'{_count(step["rate"])} images/s, {shares}'
    yield (
        'loading',
        f'{_count(step["loading"])} images/s per core' + ('' if step['real_images'] else ', of a picture of 500 x 375'),
    )


def _count(rate: float) -> str:
    return f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'


def _advice(result: Diagnosis) -> Iterator[tuple[str, str]]:
    for problem in result.problems:
        yield 'ERROR' if problem.is_error else 'warning', str(problem)
    if not result.problems:
        yield 'nothing is wrong', ''
    if not result.step:
        return
    for key, (value, reason) in result.settings.items():
        yield 'set', f'{key}={value!r}: {reason}'
    step = result.step
    batch = f'{result.facts["devices"]} x {step["batch"]} images x {step["accumulated"]} accumulated steps'
    yield 'memory of a device', f'{step["memory"] / GIB:.1f} GiB with {step["batch"]} images'
    hours = (
        f'{_count(step["hours"])} hours for {step["images_of_recipe"]:,} images'
        if step['hours']
        else 'of a data set of unknown size'
    )
    yield 'forecast', f'{_count(step["whole_rate"])} images/s ({batch}): {hours}'
