"""Named repairs of defects in the pinned tools, one folder for each tool.

`catalogue` lists them and selects those that a stage's options ask for. The entry point of each
folder is its module `apply`, imported only where the tool's framework is installed.
"""
