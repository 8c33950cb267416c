"""The data in images/ and stages/toolchains/, read: which environments and stages there are."""
