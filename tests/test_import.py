"""What `import beit_mm` does: it says nothing, and imports nothing that only some commands or systems have."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import beit_mm
from beit_mm.apis import list_models

# Drawing, other libraries' weights and data, and modules that only POSIX has.
IMPORTED_WHERE_USED = {'matplotlib', 'jinja2', 'onnx', 'onnxruntime', 'timm', 'sklearn', 'datasets', 'transformers'}
POSIX = {'fcntl', 'grp', 'pwd', 'resource', 'termios'}


def imported_at_the_top(file: Path) -> set[str]:
    """Packages that a module imports outside of functions."""
    names: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split('.')[0])
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)
    return names


def test_importing_is_silent_and_silences_the_hosts_noise(tmp_path):
    noise = """
import beit_mm, mmcv, mmseg.engine, mmseg.visualization, numpy
mmseg.visualization.SegLocalVisualizer.get_instance('any')
mmseg.engine.SegVisualizationHook()
mmcv.adjust_color(numpy.zeros((2, 2, 3), numpy.uint8), backend='pillow')
"""
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONWARNINGS'}
    result = subprocess.run(
        [sys.executable, '-c', noise], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0 and result.stdout == result.stderr == ''


def test_the_index_names_configs():
    assert len(list_models()) >= 5 and all(path.is_file() for path in list_models().values())


def test_modules_that_few_need_or_few_systems_have_are_imported_where_they_are_used():
    files = list(Path(beit_mm.__file__).parent.rglob('*.py'))
    imports = {file.name: imported_at_the_top(file) & (IMPORTED_WHERE_USED | POSIX) for file in files}
    assert len(files) > 60 and {name: packages for name, packages in imports.items() if packages} == {}
