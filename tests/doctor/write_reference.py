"""Write beit_mm/doctor/reference.npz, the part of tests/reference/data that the package carries."""

from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / 'reference' / 'data'


def collect() -> dict[str, np.ndarray]:
    """Arrays by the names that beit_mm.doctor.reference reads."""
    with np.load(DATA / 'mim_forward.npz') as first, np.load(DATA / 'transfer.npz') as second:
        arrays = {name: first[name] for name in first.files if name.startswith('weight/')}
        arrays |= {name.replace('grad/', 'gradient/'): first[name] for name in first.files if name.startswith('grad/')}
        count = len(first['x'])
        arrays |= dict(
            images=first['x'],
            mask=first['mask'].reshape(count, 4, 4),
            tokens=first['token_ids'].reshape(count, 4, 4),
            loss=first['loss'],
            larger_images=second['x'],
            logits=second['logits'],
        )
        for name in second.files:
            if name.startswith('weight/') and 'table' not in name:  # the tables are resized from the first model's
                own = name.removeprefix('weight/')
                own = own.replace('head.', 'head.fc.') if own.startswith('head.') else f'backbone.{own}'
                arrays[f'transfer/{own}'] = second[name]
    return arrays


if __name__ == '__main__':
    from beit_mm.doctor.reference import FILE

    np.savez_compressed(FILE, **collect())
