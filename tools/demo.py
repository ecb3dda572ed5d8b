"""The whole road on the embedded digits: tokenizer, pre-training, fine-tuning, segmentation, table and pictures."""
from beit_mm.demo import main

if __name__ == '__main__':
    main()
