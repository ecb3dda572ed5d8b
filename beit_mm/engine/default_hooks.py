"""Default hooks that a user leaves out."""
from mmengine.config import Config

# A Runner has these without being told, and leaves out those that are None.
OF_MMENGINE = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}


def drop_left_out(cfg: Config) -> None:
    """Let `default_hooks.NAME=None` leave out any hook: the Runner asserts that it is one of MMEngine's own."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in OF_MMENGINE]:
        del hooks[name]
