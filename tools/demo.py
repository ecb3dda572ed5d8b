"""The whole road on the embedded digits: tokenizer, pre-training, fine-tuning, segmentation, table and pictures."""

import sys

from beit_mm.demo import main

if __name__ == '__main__':
    try:
        main()
    except ValueError as error:  # such as a data folder that holds something else
        sys.exit(f'error: {error}')
