"""What a file is, told from its bytes: readers of the formats, within bounds, that run nothing."""
