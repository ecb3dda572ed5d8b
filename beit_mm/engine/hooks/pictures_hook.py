"""Pictures of what a model makes of its batch while it trains."""

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch.distributed.tensor import DTensor

from beit_mm.engine.runners.stopwatch import timed
from beit_mm.errors import UserError
from beit_mm.models.inspection import evaluating, keeping_random_states, unwrap
from beit_mm.registry import HOOKS
from beit_mm.visualization.pictures import draw_pictures, Pictures


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draws the first images of the current batch and what the model makes of them, at an interval.

    Pictures and numbers go to every backend of the visualizer, such as TensorBoard and the folder `vis_image`, over the
    number of iterations done. `draw_pictures` decides what they show of each class of model.

    Training does not change, bit for bit. Only the main process draws; of a sharded model all processes compute.
    An error is a warning in the log, the first time with its traceback. Errors while drawing a sharded model end the
    training, as other processes may wait.

    Args:
        interval: iterations from one drawing to the next.
        num_images: number of images, at most those of a batch.

    Raises:
        UserError: If an option is not positive.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000, num_images: int = 8):
        for name, value in dict(interval=interval, num_images=num_images).items():
            if value < 1:
                raise UserError(f'PicturesHook.{name} must be at least 1, got {value}')
        self.interval, self.num_images = interval, num_images
        self.has_failed = False

    def before_train(self, runner) -> None:
        model = unwrap(runner.model)
        self.all_compute = any(isinstance(parameter, DTensor) for parameter in model.parameters())  # in shards
        self.takes_part = is_main_process() or self.all_compute
        if draw_pictures.dispatch(type(model)) is draw_pictures.dispatch(object):
            self.takes_part = False
            runner.logger.info(f'PicturesHook: there are no pictures for {type(model).__name__}')

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.takes_part or not self.every_n_train_iters(runner, self.interval):
            return
        pictures = None
        try:
            with timed(runner, 'pictures'):
                pictures = self._draw(runner, data_batch)
                for name, image in pictures.images.items():
                    runner.visualizer.add_image(name, image, runner.iter + 1)
                for tag, value in pictures.scalars.items():
                    runner.visualizer.add_scalar(tag, value, runner.iter + 1)
        except Exception as error:
            if self.all_compute and pictures is None:
                raise
            runner.logger.warning(
                f'PicturesHook: nothing drawn after {runner.iter + 1} iterations: {error}', exc_info=not self.has_failed
            )
            self.has_failed = True

    def _draw(self, runner, batch: dict) -> Pictures:
        model = unwrap(runner.model)
        with keeping_random_states(), torch.no_grad(), evaluating(model):
            with torch.compiler.set_stance('force_eager'):  # another batch size would compile again
                return draw_pictures(model, batch, self.num_images, runner.visualizer.dataset_meta or {})
