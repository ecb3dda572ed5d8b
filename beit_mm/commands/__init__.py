"""The commands of `beit-mm`, a module each.

A module's docstring is the help: its first line in the list of commands, all of it with `--help`, so its lines have at
most 80 characters. `add_arguments(parser)` adds the arguments, `run(args)` runs the command. At the top modules import
the standard library only, so that help and mistakes in arguments need no torch.
"""
