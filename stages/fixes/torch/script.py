"""Scripted models, specialised to their shapes: a trace of a run that interprets the script.

torch 1.5.1 exports a script as it stands, with its branches, loops, lists and sizes, most of which
neither its exporter nor onnx-tf can carry on. Where shapes are known, nearly all of that is known
too. So the script's own code is run here, statement by statement, with Python's numbers and lists
as numbers and lists; what is left for the trace to record are the operators on tensors.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import nn

from stages.fixes.torch.python_values import (
    CONTAINER_OPERATORS,
    MUTATING,
    RESULT_TYPES,
    Traced,
    compute_scalars,
    contains,
    map_values,
    untraced,
)
from stages.kit.contract import StageError

# Operators of which a straight line is exported as well as it stands: that of a traced classifier.
_PLAIN_OPERATORS = {
    *("_convolution", "adaptive_avg_pool2d", "add", "add_", "addmm", "avg_pool2d", "batch_norm"),
    *("cat", "conv2d", "dropout", "feature_dropout", "flatten", "hardtanh", "hardtanh_", "linear"),
    *("matmul", "max_pool2d", "mean", "mul", "relu", "relu_", "reshape", "sigmoid", "t", "tanh"),
    *("view", "leaky_relu", "leaky_relu_"),
}
# What a straight line of operators consists of, besides those of aten.
_PLAIN = {"prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::TupleConstruct"}
# A loop that a condition may end early is run this often at most.
_MOST_ROUNDS = 256
_PLAIN |= {"prim::CallMethod", "prim::ListUnpack", "prim::TupleUnpack"}
_LINE = re.compile(r"# (.+):(\d+):\d+\s*$")
_SERIALIZED = re.compile(r'File "(.+?)", line (\d+)')
_TORCH = re.compile(r"(^|/)torch/(nn|functional|jit|_)")
_INPLACE = re.compile(r"aten::\w*[a-z0-9]_$")


# What a variable holds in a branch that does not set it, and after which nothing reads it.
_UNSET = object()


class Place(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}({self.line})"


class ScriptError(StageError):
    """A script that cannot be specialised; `str` names the line."""


def needs_specialising(script: Any) -> bool:
    """Tell whether a script has more than a straight line of plain operators."""
    plain = _PLAIN | {f"aten::{name}" for name in _PLAIN_OPERATORS}
    graph = script.inlined_graph  # a copy, which must outlive the use of its nodes
    return not all(node.kind() in plain and _is_plain(node) for node in graph.nodes())


def _is_plain(node: Any) -> bool:
    """Tell whether a node is exported without the sizes in a script, which the exporter loses."""
    kind = node.kind()
    if kind == "aten::adaptive_avg_pool2d":
        return set(_list_constants(node, 1)) == {1}
    if kind == "aten::flatten":
        return _list_constants(node, 1) + _list_constants(node, 2) == [1, -1]
    if kind == "aten::avg_pool2d":
        return _list_constants(node, 6) == [None]  # no divisor of its own
    if kind in ("aten::_convolution", "aten::conv2d"):
        return list(node.inputs())[1].node().kind() == "prim::GetAttr"
    return True


def _list_constants(node: Any, place: int) -> List[Any]:
    """Return the value, or the values of the list, that a node has as an input; [] if unknown."""
    source = list(node.inputs())[place].node()
    if source.kind() == "prim::ListConstruct":
        return [
            value for i in range(len(list(source.inputs()))) for value in _list_constants(source, i)
        ]
    if source.kind() != "prim::Constant":
        return []
    value = source.output().toIValue()
    return list(value) if isinstance(value, (list, tuple)) else [value]


class SpecialisedScript(nn.Module):
    """A scripted module that a trace can look into.

    Its submodules, parameters and buffers have the script's names. `forward` raises `ScriptError`
    where the script does what no trace can record.
    """

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.notes: List[str] = []
        self._script = script
        self._owners: Dict[str, nn.Module] = {}
        _mirror(script._c, self, "", {}, self._owners)
        self.eval()

    def __deepcopy__(self, memo: Any) -> SpecialisedScript:
        return SpecialisedScript(self._script)

    def forward(self, *inputs: Any) -> Any:
        run = _Run(self._owners, self.notes)
        for tensor in inputs:
            run.mark_dependent(tensor)
        return run.call(_Object(self._script._c, ""), "forward", list(inputs))


def _mirror(
    script: Any, module: nn.Module, path: str, known: Dict[int, Any], owners: Dict[str, nn.Module]
) -> None:
    """Give a module the tensors and submodules of a script's; tensors that are shared stay so."""
    owners[path] = module
    for name, tensor in torch._C.ParameterDict(script).items():
        if id(tensor) not in known:
            known[id(tensor)] = (nn.Parameter(tensor.detach(), requires_grad=False), tensor)
        module.register_parameter(name, known[id(tensor)][0])
    for name, tensor in torch._C.BufferDict(script).items():
        if id(tensor) not in known:  # cloned, since forward() may write to it
            known[id(tensor)] = (tensor.detach().clone(), tensor)
        module.register_buffer(name, known[id(tensor)][0])
    for name, child in torch._C.ModuleDict(script).items():
        mirror = nn.Module()
        module.add_module(name, mirror)
        _mirror(child, mirror, f"{path}.{name}" if path else name, known, owners)


class _Object:
    """A module of the script, or an instance of one of its classes, and its path."""

    def __init__(self, script: Any, path: str) -> None:
        self.script = script
        self.path = path
        self.attributes: Dict[str, Any] = {}


class _Run:
    """One run of a script: attributes that were set, and which memory depends on the inputs."""

    def __init__(self, owners: Dict[str, nn.Module], notes: List[str]) -> None:
        self._owners = owners
        self._notes = notes
        self._objects: Dict[str, _Object] = {}
        self._stack: List[Any] = []
        # Storages, by address, that hold what depends on an input; tensors keep them alive.
        self._dependent: Dict[int, Any] = {}
        # How many branches are being tried of which only one will count.
        self._tentative = 0

    def mark_dependent(self, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel():
            self._dependent[value.storage().data_ptr()] = value

    def is_dependent(self, tensor: Any) -> bool:
        return tensor.numel() > 0 and tensor.storage().data_ptr() in self._dependent

    def call(self, owner: _Object, method: str, arguments: List[Any]) -> Any:
        """Run a method of a module in the scope of its path."""
        state = torch._C._get_tracing_state()
        if state is not None:
            state.push_scope(owner.path or "__module")
        try:
            graph = owner.script._get_method(method).graph
            return self._run_graph(graph, [owner, *arguments])
        finally:
            if state is not None:
                state.pop_scope()

    def _run_graph(self, graph: Any, arguments: Sequence[Any]) -> Any:
        values = {v.debugName(): a for v, a in zip(graph.inputs(), arguments)}
        results = self._run_block(graph, values)
        return results[0] if len(results) == 1 else tuple(results)

    def _run_block(self, block: Any, values: Dict[str, Any]) -> List[Any]:
        for node in block.nodes():
            self._stack.append(node)
            try:
                results = self._run_node(node, values)
            except ScriptError:
                raise
            except Exception as error:  # an operator may raise anything
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise self._make_error(f"{node.kind()} failed: {lines[0][:300]}") from error
            self._stack.pop()
            for output, result in zip(node.outputs(), results):
                values[output.debugName()] = result
        return [values[output.debugName()] for output in block.outputs()]

    def _run_node(self, node: Any, values: Dict[str, Any]) -> Sequence[Any]:
        """Run a node and return what its outputs are."""
        kind = node.kind()
        if kind == "prim::Constant":
            is_function = node.output().type().kind() == "FunctionType"
            return [node if is_function else _prepare_constant(node.output().toIValue())]
        arguments = [values[value.debugName()] for value in node.inputs()]
        special = getattr(self, "_run_" + kind.partition("::")[2], None)
        if kind.startswith("prim::") and special is not None:
            return special(node, arguments, values)  # type: ignore[no-any-return]
        if kind in CONTAINER_OPERATORS and _is_container_call(kind, arguments):
            if kind in MUTATING:
                self._refuse_if_tentative("a list or dictionary is changed")
            return [CONTAINER_OPERATORS[kind](*arguments)]
        read = _READERS.get(kind)
        if read is not None:
            return [read(self, node, *arguments)]
        if not kind.startswith("aten::"):
            raise self._make_error(f"{kind} is not known here")
        return self._run_operator(node, arguments)

    def _run_operator(self, node: Any, arguments: List[Any]) -> Sequence[Any]:
        """Run an operator of aten: traced if there is a tensor, else as a matter of Python."""
        kind, count = node.kind(), len(list(node.outputs()))
        dynamic = contains(arguments, lambda value: isinstance(value, Traced))
        if not dynamic and not contains(arguments, _is_tensor) and not _makes_tensors(node):
            return [compute_scalars(node, arguments)]
        if _INPLACE.match(kind):
            self._refuse_if_tentative("a tensor is written in place")
        plain = map_values(arguments, lambda v: v.tensor if isinstance(v, Traced) else v)
        if kind == "aten::select" and isinstance(arguments[2], Traced):
            x, axis, index = plain
            result = torch.index_select(x, axis, index.reshape(1)).squeeze(axis)
        else:
            operator = getattr(torch.ops.aten, kind.partition("::")[2])
            result = _call_at(self.get_place(), lambda: operator(*plain))
        if contains(plain, lambda v: _is_tensor(v) and self.is_dependent(v)):
            map_values(result, self._mark)
        if dynamic and _is_tensor(result) and node.output().type().kind() in RESULT_TYPES:
            result = Traced(result)
        return list(result) if count > 1 else [result]

    def _mark(self, value: Any) -> Any:
        self.mark_dependent(value)
        return value

    # The nodes of control flow and of Python's values, each by the name behind `prim::`.

    def _run_If(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        blocks, condition = list(node.blocks()), arguments[0]
        if not isinstance(condition, Traced):
            return self._run_block(blocks[0 if condition else 1], values)
        results, raising = [], []
        for block in blocks:
            raising.append(any(n.kind() == "prim::RaiseException" for n in block.nodes()))
        if any(raising):
            self._notes.append(
                f"{self.get_place()}: a branch that raises an error is left out, since whether "
                "it is taken depends on the input."
            )
            return self._run_block(blocks[0 if raising[1] else 1], values)
        self._tentative += 1
        for block in blocks:
            results.append(self._run_block(block, dict(values)))
        self._tentative -= 1
        return [self._choose(condition.tensor, a, b) for a, b in zip(*results)]

    def _choose(self, condition: Any, one: Any, other: Any) -> Any:
        """Return what is `one` where the condition holds, else `other`."""
        if one is other or other is _UNSET:
            return one
        if one is _UNSET:
            return other
        if isinstance(one, (tuple, list)) and type(one) is type(other) and len(one) == len(other):
            return type(one)(self._choose(condition, a, b) for a, b in zip(one, other))
        if _is_tensor(one) and _is_tensor(other):
            if one.shape == other.shape and one.dtype == other.dtype:
                return self._mark(_select(condition, one, other))
        elif all(isinstance(value, (bool, int, float, Traced)) for value in (one, other)):
            if not isinstance(one, Traced) and one == other:
                return one
            a, b = (v.tensor if isinstance(v, Traced) else torch.tensor(v) for v in (one, other))
            return Traced(self._mark(_select(condition, a, b.to(a.dtype))))
        raise self._make_error(
            "the branches of an `if` that depends on the input's values give results of different "
            "shapes or types"
        )

    def _run_Loop(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        """Run a loop round by round.

        Where a condition that depends on the inputs may end it early, each of a fixed number of
        rounds is run, and counts only where the condition still holds.
        """
        most, condition, *carried = arguments
        block = next(iter(node.blocks()))
        names = [value.debugName() for value in block.inputs()]
        rounds = 0
        while True:
            dynamic = isinstance(condition, Traced)
            if isinstance(most, Traced) or (dynamic and most > _MOST_ROUNDS):
                raise self._make_error(
                    "the number of rounds of a loop depends on the input's values"
                )
            if rounds >= most or not (dynamic or condition):
                return carried
            values.update(zip(names, [rounds, *carried]))
            if dynamic:
                self._tentative += 1
                again, *results = self._run_block(block, values)
                self._tentative -= 1
                flag = condition.tensor
                carried = [self._choose(flag, new, old) for new, old in zip(results, carried)]
                again = again.tensor if isinstance(again, Traced) else torch.tensor(bool(again))
                condition = Traced(self._mark(flag & again))
            else:
                condition, *carried = self._run_block(block, values)
            rounds += 1

    def _run_GetAttr(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        owner, name = arguments[0], node.s("name")
        if name in owner.attributes:
            return [owner.attributes[name]]
        path = f"{owner.path}.{name}" if owner.path else name
        if path in self._owners:
            found = self._objects.setdefault(path, _Object(owner.script.getattr(name), path))
        else:
            mirror = self._owners[owner.path]
            found = getattr(mirror, name, None)
            if found is None:
                found = _prepare_constant(owner.script.getattr(name))
        owner.attributes[name] = found
        return [found]

    def _run_SetAttr(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        self._refuse_if_tentative("an attribute is set")
        owner, value = arguments
        owner.attributes[node.s("name")] = value
        return []

    def _run_CreateObject(
        self, node: Any, arguments: List[Any], values: Dict[str, Any]
    ) -> List[Any]:
        return [_Object(None, "")]

    def _run_CallMethod(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        owner, *rest = arguments
        if owner.script is None:  # an instance of a class of the script's
            return [self._run_graph(_inline_call(node), arguments)]
        return [self.call(owner, node.s("name"), rest)]

    def _run_CallFunction(
        self, node: Any, arguments: List[Any], values: Dict[str, Any]
    ) -> List[Any]:
        return [self._run_graph(_inline_call(node), arguments[1:])]

    def _run_RaiseException(
        self, node: Any, arguments: List[Any], values: Dict[str, Any]
    ) -> List[Any]:
        raise self._make_error("the model raises an error")

    def _run_TupleUnpack(
        self, node: Any, arguments: List[Any], values: Dict[str, Any]
    ) -> List[Any]:
        return list(arguments[0])

    _run_ListUnpack = _run_TupleUnpack

    def _run_Print(self, node: Any, arguments: List[Any], values: Dict[str, Any]) -> List[Any]:
        return []

    def _run_Uninitialized(
        self, node: Any, arguments: List[Any], values: Dict[str, Any]
    ) -> List[Any]:
        return [_UNSET]

    # Values of tensors as Python's: known unless the inputs decide them.

    def read_scalar(self, node: Any, value: Any) -> Any:
        """Return a number or truth value of Python's for a tensor or another number."""
        kind = node.output().type().kind()
        cast, dtype = RESULT_TYPES.get(kind, (None, None))
        if isinstance(value, Traced):
            return Traced(value.tensor if dtype is None else value.tensor.to(dtype))
        if not _is_tensor(value):
            return value if cast is None else cast(value)
        if self.is_dependent(value):
            flat = value.reshape([])
            return Traced(flat if dtype is None or flat.dtype == dtype else flat.to(dtype))
        with untraced():
            found = value.item()
        return found if cast is None else cast(found)

    def _refuse_if_tentative(self, what: str) -> None:
        if self._tentative:
            raise self._make_error(f"{what} in an `if` that depends on the input's values")

    def get_place(self) -> Optional[Place]:
        """Return the innermost line that is not torch's own."""
        places = [place for place in map(read_place, reversed(self._stack)) if place is not None]
        own = [place for place in places if not _TORCH.search(place.file)]
        return (own or places or [None])[0]

    def _make_error(self, what: str) -> ScriptError:
        place = self.get_place()
        return ScriptError(
            f"The script cannot be specialised to its shapes: {what}"
            + (f" (in {place})." if place else "."),
            "Write that part without branches, loops and sizes that depend on the input's values; "
            "torch.where and masks do much of it.",
            blame="stage",
        )


def read_place(node: Any) -> Optional[Place]:
    """Read the line that a node was made from."""
    found = _LINE.search(str(node).partition("\n")[0])
    if found is None or found.group(1) == "":
        found = _SERIALIZED.search(str(node.sourceRange()))
    return Place(found.group(1), int(found.group(2))) if found else None


def _select(condition: Any, one: Any, other: Any) -> Any:
    """Return torch.where, which torch 1.5.1 lacks for truth values."""
    if one.dtype == torch.bool:
        return (condition & one) | (~condition & other)
    return torch.where(condition, one, other)


def _prepare_constant(value: Any) -> Any:
    """Put a constant on the CPU: a script may have been saved on a GPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _makes_tensors(node: Any) -> bool:
    return any(output.type().kind() == "TensorType" for output in node.outputs()) or any(
        output.type().str().startswith("Tensor") for output in node.outputs()
    )


def _is_container_call(kind: str, arguments: Sequence[Any]) -> bool:
    return bool(arguments) and isinstance(arguments[0], (list, tuple, dict, str))


def _call_at(place: Optional[Place], function: Callable[[], Any]) -> Any:
    """Call a function in a frame of the user's line, which a trace notes for each operator."""
    if place is None:
        return function()
    names = {"function": function, "result": None}
    exec(_compile_frame(*place), names)
    return names["result"]


@lru_cache(maxsize=4096)
def _compile_frame(file: str, line: int) -> Any:
    return compile("\n" * (line - 1) + "result = function()", file, "exec")


def _inline_call(node: Any) -> Any:
    """Return a graph of the function or method that a node calls; its inputs are the arguments."""
    given = list(node.inputs())
    function = given.pop(0) if node.kind() == "prim::CallFunction" else None
    graph = torch._C.Graph()
    copies = {}
    for value in given:
        copy = graph.addInput()
        copy.setType(value.type())
        copies[value.debugName()] = copy
    if function is not None:
        constant = graph.createClone(function.node(), lambda value: value)
        graph.appendNode(constant)
        copies[function.debugName()] = constant.output()
    call = graph.createClone(node, lambda value: copies[value.debugName()])
    graph.appendNode(call)
    for output in call.outputs():
        graph.registerOutput(output)
    torch._C._jit_pass_inline(graph)
    return graph


def _read_size(run: _Run, node: Any, tensor: Any, axis: Optional[int] = None) -> Any:
    with untraced():
        return list(tensor.size()) if axis is None else tensor.size(axis)


def _read_device(run: _Run, node: Any, tensor: Any) -> Any:
    return torch.device("cpu")


def _make_tensor(run: _Run, node: Any, value: Any, *rest: Any) -> Any:
    """Make a tensor of numbers, of which some may depend on the inputs."""
    dtype = _DTYPES[rest[0]] if rest and rest[0] is not None else None
    if contains([value], lambda v: isinstance(v, Traced)):
        items = value if isinstance(value, (list, tuple)) else [value]
        parts = [v.tensor if isinstance(v, Traced) else torch.tensor(v) for v in items]
        made = torch.stack(parts) if isinstance(value, (list, tuple)) else parts[0]
        return run._mark(made if dtype is None else made.to(dtype))
    if _is_tensor(value):
        return value
    return torch.tensor(value, dtype=dtype)


_DTYPES = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    11: torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

# What a script reads of a tensor, or makes of a number, without an operator on tensors.
_READERS: Dict[str, Callable[..., Any]] = {
    "aten::size": _read_size,
    "aten::dim": lambda run, node, tensor: tensor.dim(),
    "aten::numel": lambda run, node, tensor: tensor.shape.numel(),
    "aten::len": lambda run, node, tensor: tensor.shape[0],
    "aten::stride": lambda run, node, tensor, *axis: tensor.stride(*axis),
    "aten::is_floating_point": lambda run, node, tensor: tensor.is_floating_point(),
    "aten::is_complex": lambda run, node, tensor: False,
    "aten::is_contiguous": lambda run, node, tensor: True,
    "aten::is_cuda": lambda run, node, tensor: False,
    "aten::warn": lambda run, node, *rest: None,
    "aten::Int": _Run.read_scalar,
    "aten::Float": _Run.read_scalar,
    "aten::Bool": _Run.read_scalar,
    "aten::item": _Run.read_scalar,
    "aten::ScalarImplicit": _Run.read_scalar,
    "aten::IntImplicit": _Run.read_scalar,
    "aten::FloatImplicit": _Run.read_scalar,
    "aten::is_nonzero": _Run.read_scalar,
    "aten::tensor": _make_tensor,
    "aten::as_tensor": _make_tensor,
    "aten::scalar_tensor": _make_tensor,
    "aten::__is__": lambda run, node, a, b: a is b,
    "aten::__isnot__": lambda run, node, a, b: a is not b,
    "aten::_unwrap_optional": lambda run, node, value: value,
    "aten::wait": lambda run, node, value: value,
    "prim::ImplicitTensorToNum": _Run.read_scalar,
    "prim::NumToTensor": _make_tensor,
    "prim::shape": _read_size,
    "prim::device": _read_device,
    "prim::dtype": lambda run, node, tensor: _CODES[tensor.dtype],
    "prim::layout": lambda run, node, tensor: 0,
    "prim::is_cuda": lambda run, node, tensor: False,
    "prim::is_mkldnn": lambda run, node, tensor: False,
    "prim::is_quantized": lambda run, node, tensor: False,
    "prim::requires_grad": lambda run, node, tensor: False,
    "prim::data": lambda run, node, tensor: tensor.detach(),
    "prim::unchecked_cast": lambda run, node, value: value,
    "prim::unchecked_unwrap_optional": lambda run, node, value: value,
    "prim::tolist": lambda run, node, value, *rest: _read_list(run, value),
    "prim::ListConstruct": lambda run, node, *items: list(items),
    "prim::TupleConstruct": lambda run, node, *items: tuple(items),
    "prim::DictConstruct": lambda run, node, *items: dict(zip(items[::2], items[1::2])),
    "prim::TupleIndex": lambda run, node, items, index: items[index],
    "prim::TupleSlice": lambda run, node, items: items[node.i("beg") : node.i("end")],
    "prim::isinstance": lambda run, node, value: _is_instance(node, value),
    "prim::min": lambda run, node, *items: min(*items),
    "prim::max": lambda run, node, *items: max(*items),
    "prim::abs": lambda run, node, value: abs(value),
    "prim::rangelist": lambda run, node, count: list(range(count)),
}


def _read_list(run: _Run, tensor: Any) -> Any:
    if run.is_dependent(tensor):
        raise run._make_error("a tensor that depends on the input becomes a list")
    with untraced():
        return tensor.tolist()


def _is_instance(node: Any, value: Any) -> bool:
    kinds = set(node.kindOf("kinds") and re.findall(r"\w+", str(node).partition("isinstance")[2]))
    names = {float: "float", int: "int", bool: "bool", list: "list", tuple: "tuple"}
    return ("Tensor" if _is_tensor(value) else names.get(type(value), "")) in kinds


def iterate_nodes(block: Any) -> Iterator[Any]:
    """Yield the nodes of a block and of those inside, in order."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from iterate_nodes(inner)
