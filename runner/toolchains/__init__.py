"""Which environments and stages there are, from the data in images/ and stages/toolchains/."""
