"""A diagnosis as text for a terminal: what is here, whether it is right, how fast it is, what to do."""

import textwrap
from collections.abc import Iterator

from .attention import LENGTHS, Verdict
from .diagnosis import Diagnosis
from .machine import HOSTS

WIDTH, LINE = 31, 140  # of the first column and of all
AS_IT_IS = dict(break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
GIB = 2**30
STATUS = dict(OK='OK', fixed='OK with a bias that does not learn', refused='not offered here')
Rows = Iterator[tuple[str, str]]


def describe(result: Diagnosis) -> Iterator[str]:
    """Lines."""
    sections = {'What is here': _machine, 'Is it right': _checks, 'How fast is the machine': _speeds}
    sections |= {'How fast is the config': _step} if result.step else {}
    for title, rows in (sections | {'What to do': _advice}).items():
        yield title
        for name, text in rows(result):
            yield from textwrap.wrap(f'  {name:{WIDTH}}{text}', LINE, subsequent_indent=' ' * (WIDTH + 2), **AS_IT_IS)
        yield ''


def _machine(result: Diagnosis) -> Rows:
    facts = result.facts
    count = f'{facts["devices"]} x ' if facts['devices'] > 1 else ''
    memory = f'{facts["memory"] / GIB:.1f} GiB of memory, {facts["free_memory"] / GIB:.1f} free'
    yield 'device', f'{count}{facts["device"]}, {"" if facts["bfloat16"] else "no "}bfloat16, {memory}'
    threads = '' if facts['kind'] == 'cuda' else f', torch uses {facts["threads"]} threads'
    yield 'cores', f'{facts["cores"]}{threads}'
    of_gpu = [f'{text} {facts[name]}' for name, text in dict(driver='driver', cudnn='cuDNN').items() if name in facts]
    yield 'torch', ', '.join([f'{facts["torch"]}, torchvision {facts["torchvision"]}', *of_gpu])
    others = ', '.join(f'{name} {facts[name]}' for name in (*HOSTS, 'numpy'))
    yield 'others', f'beit_mm {facts["beit_mm"]}, Python {facts["python"]}, {others}'
    yield 'compiler', facts['compiler'] or 'none, so torch.compile cannot be used'


def _checks(result: Diagnosis) -> Rows:
    yield 'attention', f'a learned bias at {", ".join(map(str, LENGTHS))} tokens, against float64'
    for kernel in dict.fromkeys(verdict.kernel for verdict in result.verdicts):
        texts: dict[str, list[str]] = {}
        for dtype in dict.fromkeys(verdict.dtype for verdict in result.verdicts):
            verdicts = [v for v in result.verdicts if (v.kernel, v.dtype) == (kernel, dtype)]
            texts.setdefault(_status(verdicts), []).append(dtype)
        parts = [f'{", ".join(dtypes)}: {text}' if len(texts) > 1 else text for text, dtypes in texts.items()]
        yield f'  {kernel}', '; '.join(parts)
    for check in result.checks:
        text = f'OK, off by {check.error:.0e}' if check.error else 'OK, equal'
        if check.name.startswith('tokens'):
            text = f"{100 * check.error:.2f} % of float64's kept"
        yield check.name, f'WRONG: {check.problem.sentence}' if check.problem else text


def _status(verdicts: list[Verdict]) -> str:
    wrong = [str(verdict.tokens) for verdict in verdicts if verdict.status == 'wrong']
    found = {verdict.status for verdict in verdicts}
    return f'WRONG at {", ".join(wrong)} tokens' if wrong else ', '.join(STATUS[s] for s in STATUS if s in found)


def _speeds(result: Diagnosis) -> Rows:
    speeds = result.speeds
    products = (f'{name} {_scaled(value, "FLOP/s")}' for name, value in speeds['products'].items())
    yield 'matrix products', ', '.join(products)
    yield 'memory', f'{_scaled(speeds["memory"], "B/s")} read and written'
    yield 'decoding a JPEG', f'{speeds["decoding"]:.0f} images/s of 500 x 375 per core'
    if speeds['disk']:
        written, read = (_scaled(speeds['disk'][name], 'B/s') for name in ('write', 'read'))
        yield 'disk, this folder', f'{written} written, {read} read'
    if 'sums' in speeds:
        yield 'sum over devices', f'{_scaled(speeds["sums"], "B/s")} (all-reduce)'


def _scaled(value: float, unit: str) -> str:
    power, prefix = next(((p, prefix) for p, prefix in ((12, 'T'), (9, 'G')) if value >= 10**p), (6, 'M'))
    return f'{value / 10**power:.3g} {prefix}{unit}'


def _step(result: Diagnosis) -> Rows:
    step = result.step
    cut = f', cut to {step["side"]} of {step["whole_side"]} pixels' if step['side'] != step['whole_side'] else ''
    yield 'measured', f'steps with a batch of {step["images"]}{cut}, in {step["dtype"]}'
    for trial in step['trials']:
        gain = f'{trial.gain:.2f} times as fast, ' if trial.gain else ''
        yield f'  {trial.name}', f'{gain}{trial.status}: {trial.reason}'
    published = f', {step["share_of_published"]:.0%} of the published one' if step['share_of_published'] else ''
    share = f'{step["share_of_measured"]:.0%} of the measured peak{published}'
    yield 'one device', f'{_count(step["rate"])} images/s, {share}'
    picture = '' if step['real_images'] else ', of a picture of 500 x 375'
    yield 'loading', f'{_count(step["loading"])} images/s per core{picture}'


def _count(rate: float) -> str:
    return f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'


def _advice(result: Diagnosis) -> Rows:
    for problem in result.problems:
        yield 'ERROR' if problem.is_error else 'warning', str(problem)
    if not result.problems:
        yield 'nothing is wrong', ''
    for key, (value, reason) in result.settings.items():
        yield 'set', f'{key}={value!r}: {reason}'
    if step := result.step:
        yield 'memory of a device', f'{step["memory"] / GIB:.1f} GiB with {step["batch"]} images'
        batch = f'{result.facts["devices"]} x {step["batch"]} images x {step["accumulated"]} accumulated steps'
        known = f'{_count(step["hours"])} hours for {step["images_of_recipe"]:,} images' if step['hours'] else ''
        run = known or 'of a data set of unknown size'
        yield 'forecast', f'{_count(step["whole_rate"])} images/s ({batch}): {run}'
