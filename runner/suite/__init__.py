"""Many models with many toolchains, on this machine or on a cluster; results that are compared.

Only `worker`, `cluster` and `run` import Dask, which is the extra `suite`.
"""
