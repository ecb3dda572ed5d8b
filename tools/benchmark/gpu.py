"""Measure all that a GPU can tell, in at most 8 minutes, into one JSON; print its tables. See gpu.sh."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, IO

from cpu_tables import origin, put
from gpu_tables import tables

MODULE = 'gpu_parts'  # its functions take a Run, and yield what is known so far
# In the order of what one would miss most, with shares of the time. What a part leaves is shared by those after it, so
# the first, which are short, may have much.
PARTS = dict(
    machine=100, trajectory=50, pretraining=150, profile=30, attention=50, doctor=85, finetuning=60, resume=70,
    segmentation=45, large=40)  # yapf: disable
MIN_SECONDS = 8  # with fewer left, a part is not begun
FIGURES, TABLES, LOG = 'figures.json', 'tables.md', 'log.txt'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu'), help='folder of the JSON, tables and log')
    parser.add_argument('--small', action='store_true', help='tiny sizes, to try it all on a CPU')
    parser.add_argument('--seconds', type=int, default=450, help='for all parts together; default: 450')
    parser.add_argument('--table', type=Path, metavar='FIGURES.json', help='print the tables of a JSON, no more')
    parser.add_argument('--page', type=Path, help='with --table: write them into a page, between its markers')
    parser.add_argument('--part', help=argparse.SUPPRESS)  # for this file as a child of itself
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.part:
        return run_part(args.part, args.out, args.small)
    if args.table:
        figures = json.loads(args.table.read_text())
        return put(tables(figures), 'GPU', args.page) if args.page else print(tables(figures))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the child too
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / LOG).unlink(missing_ok=True)
    figures = run_parts(args.out, args.small, args.seconds)
    text = tables(figures)
    (args.out / TABLES).write_text(text + '\n')
    print(text)
    sys.exit(any('problem' in part for part in figures['parts'].values()))


def run_parts(out: Path, small: bool, seconds: float) -> dict[str, Any]:
    """Run all parts one after the other, each in a process of its own, and write the JSON after each.

    The next part's process begins while one is measured, does its imports (which use no GPU) and waits.
    """
    end = time.monotonic() + seconds
    figures: dict[str, Any] = dict(origin(), small=small, parts={})
    children: list[subprocess.Popen] = []
    try:
        for index, name in enumerate(PARTS):
            left = end - time.monotonic()
            print(f'{name} ... ({left:.0f} s left)', file=sys.stderr, flush=True)
            if left < MIN_SECONDS:
                figures['parts'][name] = dict(problem=f'not begun: the {seconds:.0f} s were over')
            else:
                children += [start(part, out, small) for part in list(PARTS)[len(children) : index + 2]]
                # A small run's machine may have few cores and other work.
                share = 1 if small else PARTS[name] / sum(list(PARTS.values())[index:])
                figures['parts'][name] = finish(name, children[index], share * left, out)
            write_json(out / FIGURES, figures)
            if not small and figures['parts'][name].get('facts', {}).get('kind') == 'cpu':
                sys.exit('torch finds no GPU here; --small tries everything on a CPU, with tiny sizes')
    finally:
        for child in children:
            end_group(child)
            result_file(out, child.pid).unlink(missing_ok=True)
    return figures


def start(name: str, out: Path, small: bool) -> subprocess.Popen:
    command = [sys.executable, '-u', sys.argv[0], '--part', name, '--out', out, *(['--small'] if small else [])]
    # To compile tiny models takes longer than all else.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'TORCH_COMPILE_DISABLE': '1'} if small else None
    with open(out / LOG, 'a') as log:
        return subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
            env=environment, start_new_session=True)  # yapf: disable


def finish(name: str, child: subprocess.Popen, limit: float, out: Path) -> dict[str, Any]:
    """Let a part begin and wait for its end: what it found, its seconds, and in one sentence what went wrong."""
    begin, problem = time.monotonic(), ''
    try:
        send(child.stdin, f'{limit}\n')
        if code := child.wait(limit):
            problem = f'ended with exit code {code}'
    except subprocess.TimeoutExpired:
        problem = f'took more than {limit:.0f} s and was ended'
    end_group(child)
    path = result_file(out, child.pid)
    result = json.loads(path.read_text()) if path.is_file() else {}
    if problem:
        result['problem'] = f'{result.get("problem", problem)}; see "== {name} ==" in {LOG}'
    return dict(result, seconds=round(time.monotonic() - begin, 1))


def send(stream: IO[str], text: str) -> None:
    try:
        stream.write(text)
        stream.close()
    except BrokenPipeError:  # its exit code says more
        pass


def end_group(child: subprocess.Popen) -> None:
    """End a child and what it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def run_part(name: str, out: Path, small: bool) -> None:
    """In the child: import, wait for the word to begin, and write what is known after each step."""
    parts = import_module(MODULE)
    words = sys.stdin.readline()
    if not words:  # the parent is gone
        return
    print(f'== {name} ==', flush=True)
    result: dict[str, Any] = {}
    try:
        for result in getattr(parts, name)(parts.Run(small, out, time.monotonic() + float(words))):
            write_json(result_file(out, os.getpid()), result)
    except Exception as error:
        traceback.print_exc()
        text = ' '.join(str(error).split())[:300]
        write_json(result_file(out, os.getpid()), dict(result, problem=f'{type(error).__name__}: {text}'))
        sys.exit(1)


def result_file(out: Path, pid: int) -> Path:
    return out / f'.part_{pid}.json'


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix('.new')
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


if __name__ == '__main__':
    main()
