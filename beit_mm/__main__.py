"""python -m beit_mm classify|segment|features|reconstruct|models"""
from .apis.command_line import main

main()
