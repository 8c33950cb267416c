"""One conversion of many, in a process of its own."""
