"""The demonstration's digits, which tools/demo writes."""

from .tools import import_tool

make_digits = import_tool('demo', 'make_digits')
CLASSES = make_digits.CLASSES
write_classification = make_digits.write_classification
write_segmentation = make_digits.write_segmentation
