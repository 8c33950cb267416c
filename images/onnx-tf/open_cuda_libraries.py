"""Ask TensorFlow's own loader to open each CUDA library, on a machine with or without a GPU.

    docker run --rm -i --entrypoint python runner-onnx-tf-cuda - < open_cuda_libraries.py

TensorFlow opens these libraries when it first needs them, so an import proves nothing. Its loader
(`stream_executor::internal::DsoLoader`, in libtensorflow_framework) knows the file names that this
build wants, and says on standard error what it opened or why it could not. The exit status is 0
only if every library of the toolkit was opened. The driver (libcuda) belongs to the machine and
not to the image: it is reported and does not count.
"""

import ctypes
import importlib.util
import pathlib
import sys

LIBRARIES = ("CudaRuntime", "Cublas", "Cufft", "Curand", "Cusolver", "Cusparse", "Cupti", "Cudnn")
DRIVER = "CudaDriver"


class StatusOr(ctypes.Structure):
    """port::StatusOr<void*>: a Status, which is one pointer that is null for OK, and the handle."""

    _fields_ = [("state", ctypes.c_void_p), ("handle", ctypes.c_void_p), ("rest", ctypes.c_void_p)]


def load_framework():
    """TensorFlow's shared library, without importing the rest of it."""
    package = importlib.util.find_spec("tensorflow")
    if package is None:
        sys.exit("TensorFlow is not installed.")
    folder = pathlib.Path(package.origin).parent
    return ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"))


def opens(framework, name):
    """Whether the loader opens a library. It is not C: the result comes back through memory."""
    function_name = "Get{}DsoHandle".format(name)
    symbol = "_ZN15stream_executor8internal9DsoLoader{}{}Ev".format(
        len(function_name), function_name
    )
    function = getattr(framework, symbol)
    function.argtypes = [ctypes.POINTER(StatusOr)]
    function.restype = ctypes.c_void_p
    result = StatusOr()
    function(ctypes.byref(result))
    return not result.state


def main():
    framework = load_framework()
    missing = []
    for name in (*LIBRARIES, DRIVER):
        opened = opens(framework, name)
        print("{:12} {}".format(name, "opened" if opened else "NOT OPENED"), flush=True)
        if not opened and name != DRIVER:
            missing.append(name)
    if missing:
        print(
            "Missing: {}. Build with a CUDA image; see images/base/base.toml.".format(
                ", ".join(missing)
            )
        )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
