"""Named repairs of what was wrong in the pinned tools, by the tool that they repair.

`catalogue` lists them and chooses by a stage's options; each tool's folder has its entry in
`apply`, imported only where its framework is installed.
"""
