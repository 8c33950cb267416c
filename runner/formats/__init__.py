"""What a file is, told from its bytes: a bounded reader for each format; nothing is run."""
