"""Private names of other libraries that the package relies on: all exist, each with its reason.

If a new version of a library fails here, read the reason and mend the code that uses the name. Add a line for every new
private name.
"""

import ast
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import beit_mm

# Owner, name, and why the package needs it.
NAMES = [
    # Python
    ('zipfile', '_EndRecData', 'where a zip file lists its parts, before zipfile reads the list'),
    # MMEngine
    ('mmengine.runner:Runner', '_load_from', 'the checkpoint of a run; its config has no such key if built by hand'),
    ('mmengine.runner:Runner', '_resume', 'whether a run is resumed; its config has no such key if built by hand'),
    ('mmengine.runner:Runner', '_randomness_cfg', 'whether the seed of a rank holds the rank'),
    ('mmengine.runner:EpochBasedTrainLoop', '_epoch', 'our loop counts epochs itself'),
    ('mmengine.runner:EpochBasedTrainLoop', '_decide_current_val_interval', 'a resumed loop validates when it is due'),
    ('mmengine.hooks:CheckpointHook', '_save_checkpoint_with_step', 'overridden: the oldest file is deleted last'),
    ('mmengine.hooks:CheckpointHook', '_save_best_checkpoint', 'overridden: the best one is written alone'),
    ('mmengine._strategy:DDPStrategy', '_wrap_model', 'overridden: shards in place of data parallel'),
    ('mmengine.dataset:BaseDataset', '_metainfo', 'class names that are read from folders or shards'),
    ('mmengine.runner.checkpoint:CheckpointLoader', '_schemes', 'all addresses are read by our loader'),
    ('mmengine.runner.checkpoint', '_get_mmengine_home', 'where open-mmlab:// files lie'),
    ('mmengine.runner.checkpoint', '_process_mmcls_checkpoint', 'the format of mmcls:// files'),
    ('mmengine.config:Config', '_cfg_dict', 'values as the config holds them, not yet converted'),
    ('mmengine.config:DictAction', '_parse_iterable', 'brackets that do not match are a mistake of the command'),
    ('mmengine.optim.scheduler.param_scheduler:_ParamScheduler', '_global_step', 'schedules of a new length'),
    ('mmengine.utils:ManagerMixin', '_instance_dict', 'the early check leaves no named instance behind'),
    ('mmengine.logging:HistoryBuffer', '_log_history', 'rebuilt from a checkpoint without running its pickle'),
    ('mmengine.logging:HistoryBuffer', '_count_history', 'rebuilt from a checkpoint without running its pickle'),
    ('mmengine.optim.scheduler.param_scheduler:OneCycleParamScheduler', '_annealing_cos', 'named by checkpoints'),
    ('mmengine.optim.scheduler.param_scheduler:OneCycleParamScheduler', '_annealing_linear', 'named by checkpoints'),
    ('mmengine.model:BaseModule', '_dump_init_info', 'replaced: hundreds of lines of a log for inference'),
    ('mmengine.model:BaseDataPreprocessor', '_non_blocking', 'the host classes do not take it as an argument'),
    ('mmengine.model:ImgDataPreprocessor', '_channel_conversion', 'whether a model takes RGB'),
    # MMCV, MMSegmentation, MMPretrain
    ('mmcv.transforms:RandomFlip', '_flip', 'overridden: only the image and its labels'),
    ('mmcv.transforms:LoadAnnotations', '_load_seg_map', 'overridden: label maps that do not fit are refused'),
    ('mmseg.models.decode_heads:UPerHead', '_transform_inputs', 'UperNetHead selects its inputs'),
    ('mmpretrain.datasets:CustomDataset', '_find_samples', 'overridden: labels follow the class names'),
    ('mmpretrain.engine.hooks:VisualizationHook', '_draw_samples', 'overridden: images of other bands'),
    ('mmpretrain.engine.hooks:VisualizationHook', '_visualizer', 'draws the predictions'),
    ('mmseg.engine.hooks:SegVisualizationHook', '_test_index', 'numbers of the drawn predictions'),
    ('mmpretrain.apis:ModelHub', '_models_dict', 'which models are registered'),
    ('mmpretrain.apis:get_model', '_config', 'where get_model keeps the config of a model'),
    # PyTorch
    ('torch.utils.data:DataLoader', '_iterator', 'ends persistent workers at the end of a training'),
    ('torch:ops.aten', '_scaled_dot_product_flash_attention_for_cpu', 'its operations are counted'),
    ('torch:ops.aten', '_scaled_dot_product_flash_attention_for_cpu_backward', 'its operations are counted'),
    ('torch.cpu', '_is_avx512_bf16_supported', 'bfloat16 in hardware'),
    ('torch.cpu', '_is_amx_tile_supported', 'bfloat16 in hardware'),
    ('torch', '_utils', 'tensors of a checkpoint are built without running its pickle'),
    ('torch._utils', '_rebuild_tensor_v3', 'tensors of a checkpoint are built without running its pickle'),
    ('torch.storage', '_dtype_to_storage_type_map', 'names of the types of storages in a checkpoint'),
    ('torch.serialization', '_get_restore_location', 'map_location as in torch.load'),
    ('torch.distributed.distributed_c10d', '_get_default_store', 'processes tell each other that they live'),
    ('torch.nn:Module', '_parameters', 'weights of a pickled module'),
    ('torch.nn:Module', '_buffers', 'weights of a pickled module'),
    ('torch.nn:Module', '_modules', 'weights of a pickled module'),
    ('torch.nn:Module.state_dict', '_metadata', 'versions of modules in a state dict'),
    ('torch._dynamo.eval_frame:OptimizedModule', '_orig_mod', 'the model inside torch.compile'),
    # Python
    ('pickle', '_Unpickler', 'the unpickler in Python, whose steps can be overridden'),
]
FILES = sorted(Path(beit_mm.__file__).parent.rglob('*.py'))
# Underscore names that their owners document.
DOCUMENTED = {'_current_frames', '_exit', '_getframe', '_asdict', '_fields', '_replace', '_scope_'}


@pytest.mark.parametrize('owner, name', [entry[:2] for entry in NAMES])
def test_the_name_exists(owner, name):
    found = pkgutil.resolve_name(owner)
    assert hasattr(found, name) or re.search(rf'\b{name}\b', inspect.getsource(found))


def test_every_listed_name_is_used():
    text = '\n'.join(path.read_text() for path in FILES)
    assert [name for _, name, _ in NAMES if not re.search(rf'\b{name}\b', text)] == []


def test_the_package_uses_no_other_private_name():
    """Among attributes and imports; names that a class of ours defines or sets are its own."""
    used, ours = {}, set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    ours.add(name)
                case ast.Attribute(value=ast.Name(id='self'), attr=name, ctx=ast.Store()):
                    ours.add(name)
                case ast.Attribute(attr=name):
                    used[name] = path.name
                case ast.ImportFrom(module=module, names=names):
                    used.update({part: path.name for part in [*(module or '').split('.'), *(n.name for n in names)]})
    listed = {name for _, name, _ in NAMES} | {part for owner, _, _ in NAMES for part in re.split('[.:]', owner)}
    unknown = {
        name: file for name, file in used.items() if re.match('_[^_]', name) and name not in ours | listed | DOCUMENTED
    }
    assert not unknown
