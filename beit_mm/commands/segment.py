"""Write label maps of images, and pictures of them.

A line for each image goes to standard output: its name, then the classes that
cover most of it, separated by tabs.

Example:
  beit-mm segment photos --model beit-base-p16_upernet_ade20k_640 --weights FILE --out segmented
"""

import argparse
from pathlib import Path

from .arguments import add_images, add_model, fraction
from .inference import predict, print_shares, report_skipped

NUM_SHARES = 5  # classes of a label map that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_images(parser, batch_size=1)
    add = parser.add_argument
    add('--out', type=Path, metavar='FOLDER', required=True, help='where labels/ and overlays/ are written')
    add('--probabilities', action='store_true', help='also write probabilities/: all classes per pixel, .npy')
    add('--opacity', type=fraction, default=0.5, metavar='X', help='of the colors in overlays, 0 to 1; default: 0.5')
    add_model(parser)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from beit_mm.apis import SegmentationInferencer
    from beit_mm.apis.writing import write_label_maps

    predictions = predict(args, SegmentationInferencer, probabilities=args.probabilities)
    palette = predictions.inferencer.model.dataset_meta.get('palette')
    for _, result in write_label_maps(predictions, args.out, palette, args.opacity):
        labels, counts = np.unique(result['labels'], return_counts=True)
        largest = np.argsort(-counts, kind='stable')[:NUM_SHARES].tolist()
        names = [result['classes'][labels[index]] if result['classes'] else None for index in largest]
        print_shares(result['image'], zip(counts[largest] / counts.sum(), names, labels[largest]))
    report_skipped(predictions)
