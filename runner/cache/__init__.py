"""Finished stages by content, so that what was made of the same things is not made again."""
