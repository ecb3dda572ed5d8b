"""The tables of docs/performance.md on a GPU, from the JSON of gpu.py alone."""

from collections.abc import Iterable, Iterator
from typing import Any

from cpu_tables import describe

TITLES = dict(
    pretraining='Pre-training', attention='Attention', finetuning='Fine-tuning and inference of base',
    large='Fine-tuning and inference of large', segmentation='Segmentation')  # yapf: disable


def tables(figures: dict[str, Any]) -> str:
    """Markdown."""
    return '\n'.join(_lines(figures)).strip()


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    parts = figures['parts']
    facts = parts.get('machine', {}).get('facts', {})
    yield from describe(figures, facts)
    if figures['small']:
        yield ''
        yield '**Tiny sizes: these figures show that the script works, not how fast anything is.**'
    problems = [f'- {name}: {part["problem"]}' for name, part in parts.items() if 'problem' in part]
    if problems:
        yield from ('', 'What failed:', '', *problems)
    yield from (
        '',
        'Times over 1.00 are slower than the first row of a table. Working memory is what a run takes at most, less',
    )
    yield 'what was held before it. A first call builds the model, and compiles it where that is asked for.'
    yield from ('', '### Is it right', '', *_table(['what', 'result'], _results(parts)))
    for name, title in TITLES.items():
        yield from _comparison(title, parts.get(name, {}))
    if 'ms' in parts.get('profile', {}):
        yield from _profile(parts['profile'])
    if sizes := (parts.get('doctor', {}).get('diagnosis', {}).get('step') or {}).get('sizes'):
        yield from ('', '### Images in a pre-training step, by the doctor', '')
        yield from _table(['images', 'images/s', 'ms', 'working memory'], map(_size, sizes))
    if 'report' in parts.get('doctor', {}):
        yield from ('', "### The doctor's report", '', '```text', *parts['doctor']['report'][:-1], '```')
    seconds = ', '.join(f'{name} {part["seconds"]:.0f}' for name, part in parts.items() if 'seconds' in part)
    yield from ('', f'Seconds of each part: {seconds}.')


def _results(parts: dict[str, Any]) -> Iterator[list[str]]:
    trajectory = parts.get('trajectory', {})
    for dtype in ('float32', 'bfloat16'):
        if dtype in trajectory:
            loss, norm = (f'{trajectory[dtype][name]:.1e}' for name in ('loss_error', 'norm_error'))
            result = f'losses differ by at most {loss} of their size, gradient norms by {norm}'
            yield [f"20 steps of the release's trajectory, {dtype}", result]
    for setting, run in parts.get('resume', {}).items():
        if isinstance(run, dict) and 'resumed_equal' in run:
            resumed = 'equal bit for bit' if run['resumed_equal'] else f'differs in {", ".join(run["differing"])}'
            whole = 'equal' if run['two_runs_equal'] else 'not equal'
            what = f'killed after step {run["killed_after"]} of {run["of"]} and resumed, {setting}'
            yield [what, f'{resumed}; two runs that were not killed are {whole}']
        elif isinstance(run, dict):
            yield [f'killed and resumed, {setting}', run.get('failed', 'not ended')]
    verdicts = [*parts.get('doctor', {}).get('diagnosis', {}).get('verdicts', [])]
    verdicts += parts.get('attention', {}).get('verdicts', [])
    cases = dict.fromkeys((v['kernel'], v['dtype'], v['tokens'], v['status']) for v in verdicts)  # some in both parts
    wrong = [f'{kernel} in {dtype} at {tokens} tokens' for kernel, dtype, tokens, status in cases if status == 'wrong']
    if cases:
        asked = sum(status != 'refused' for *_, status in cases)
        yield [f'attention with a learned bias, {asked} cases', f'WRONG: {", ".join(wrong)}' if wrong else 'all right']
    for problem in parts.get('doctor', {}).get('diagnosis', {}).get('problems', []):
        yield [
            f'the doctor, {"error" if problem["is_error"] else "warning"}',
            f'{problem["key"]}: {problem["sentence"]}',
        ]


def _comparison(title: str, part: dict[str, Any]) -> Iterator[str]:
    """The rows of a part, one table for each section, and what was left out of it."""
    if not part.get('rows') and not part.get('left_out'):
        return
    from measuring import as_table, Row

    rows, left_out = [Row(**row) for row in part['rows']], part.get('left_out', [])
    yield from ('', f'### {title}')
    if part.get('limits'):
        published = f' (published: {part["published"] / 1e12:.0f})' if part['published'] else ''
        limits = ', '.join(f'{name} {_scaled(value)}' for name, value in sorted(part['limits'].items()))
        yield from ('', f'Limit, matrix products: {limits}{published}.')
    for section in dict.fromkeys([*(row.section for row in rows), *(left['section'] for left in left_out)]):
        yield from ('', f'{section[0].upper()}{section[1:]}:')
        if of_section := [row for row in rows if row.section == section]:
            yield from ('', as_table(of_section, 'images/s'))
        if names := [f'{left["name"]} ({left["reason"]})' for left in left_out if left['section'] == section]:
            yield from ('', f'Left out: {"; ".join(names)}.')


def _size(size: dict[str, Any]) -> list[str]:
    memory = '' if size['memory'] is None else f'{size["memory"] / 2**20:,.0f} MiB'
    return [f'{size["images"]:,}', f'{size["images"] / size["seconds"]:.4g}', f'{1e3 * size["seconds"]:.4g}', memory]


def _profile(profile: dict[str, Any]) -> Iterator[str]:
    yield from ('', '### Where the time of a pre-training step goes', '')
    yield f'{profile["ms"]:.1f} ms for {profile["images"]} images, {profile["busy"]:.0%} of it busy; peak memory of the'
    yield f'process, weights and AdamW included: {profile["peak_memory"] / 2**30:.2f} GiB.'
    for name in ('operators', 'kernels'):
        if profile[name]:
            rows = ([row['name'][:90], f'{row["calls"]:.0f}', f'{row["ms"]:.2f}', f'{row["ms"] / profile["ms"]:.0%}']
                    for row in profile[name][:15])  # yapf: disable
            yield from ('', *_table([name, 'calls', 'ms', 'share'], rows))
    if 'under_load' in profile:
        yield from ('', 'While it runs, nvidia-smi says:', '', '```text', profile['under_load'].strip(), '```')


def _table(titles: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for cells in (titles, ['---'] * len(titles), *rows):
        yield f'| {" | ".join(cell.replace("|", "&#124;").replace("<", "&lt;") for cell in cells)} |'


def _scaled(value: float) -> str:
    return f'{value / 1e12:.3g} TFLOP/s' if value >= 1e12 else f'{value / 1e9:.3g} GFLOP/s'
