"""python -m beit_mm classify|segment|features|reconstruct|models"""

from beit_mm.apis.command_line import main

main()
