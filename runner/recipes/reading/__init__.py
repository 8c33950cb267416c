"""What was asked for, read from the files that people publish."""
