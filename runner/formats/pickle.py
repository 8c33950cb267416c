"""A pickle read as data: which names it wants and what it would build, and nothing is built.

A pickle is a program for a small machine. The standard library's `pickletools` splits it into its
instructions; here they are followed with inert values on a bounded stack: a class is its name, a
call is a record of its name and arguments. Nothing is imported, called or allocated by size.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any, TypeGuard

# A state_dict of 3,000 tensors has some 100,000 instructions.
_MOST_INSTRUCTIONS = 2_000_000
_MOST_NAMES = 1_000
_LONGEST_KEY = 4096


class BadPickle(Exception):
    """Not a pickle, or one that is cut off or does what no writer of models does."""


@dataclass(frozen=True)
class Name:
    """A class or function, as `module.name`."""

    name: str


@dataclass(eq=False)
class Call:
    """What would come of calling `function`: a model's part, a tensor, an ordered dictionary.

    `items` are those that the pickle sets on it, `state` what it restores it with.
    """

    function: str
    arguments: Any = ()
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: a tensor's storage."""

    identifier: Any


@dataclass
class Pickled:
    """A pickle's value, the names that it wants, and the storages that it refers to."""

    value: Any = None
    names: set[str] = field(default_factory=set)
    persistent: list[Any] = field(default_factory=list)


_MARK = object()


def read_pickle(file: IO[bytes]) -> Pickled:
    """Follow one pickle from where the file stands to its STOP. Raises `BadPickle`."""
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_INSTRUCTIONS or len(machine.found.names) > _MOST_NAMES:
                raise BadPickle("it is larger than any model's")
            machine.step(opcode.name, argument)
    except BadPickle:
        raise
    except Exception as error:  # a damaged pickle fails in any way at all
        raise BadPickle(str(error)[:200]) from None
    return machine.found


class _Machine:
    """The stack and the memo of a pickle's run."""

    def __init__(self) -> None:
        self.found = Pickled()
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        handler = getattr(self, f"_{name.lower()}", None)
        if handler is not None:
            handler(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name not in ("PROTO", "FRAME"):
            raise BadPickle(f"the instruction {name}")

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        taken: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _want(self, module: Any, name: Any) -> None:
        # Tuples of tuples of one tuple are small here, and without end when they are printed.
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("a name that is no text")
        # Not the whole of either: a file can ask for a name of megabytes again and again.
        full = f"{module[:300]}.{name[:300]}"[:300]
        self.found.names.add(full)
        self._stack.append(Name(full))

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _stop(self, _: Any) -> None:
        self.found.value = self._stack.pop()

    def _pop(self, _: Any) -> None:
        self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _global(self, argument: str) -> None:
        self._want(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._want(module, name)

    def _inst(self, argument: str) -> None:
        arguments = tuple(self._marked())
        self._global(argument)
        self._stack.append(_called(self._stack.pop(), arguments))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self._stack.append(_called(function, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_called(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Call):
            self._stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        self._persid(self._stack.pop())

    def _persid(self, identifier: Any) -> None:
        # A module's source code is saved by such a reference too: ('module', class, file, text).
        if isinstance(identifier, tuple) and identifier[:1] == ("module",) and len(identifier) > 1:
            self._stack.append(identifier[1])
            return
        self.found.persistent.append(identifier)
        self._stack.append(Persistent(identifier))

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _last(self, count: int) -> None:
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(taken)

    def _tuple1(self, _: Any) -> None:
        self._last(1)

    def _tuple2(self, _: Any) -> None:
        self._last(2)

    def _tuple3(self, _: Any) -> None:
        self._last(3)

    def _list(self, _: Any) -> None:
        self._stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        values = self._marked()
        self._stack.append({})
        _set(self._stack[-1], values)

    def _frozenset(self, _: Any) -> None:
        self._stack.append(tuple(self._marked()))

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    _empty_set = _empty_list

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        if isinstance(self._stack[-1], list):
            self._stack[-1].append(value)

    def _appends(self, _: Any) -> None:
        values = self._marked()
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _set(self._stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        values = self._marked()
        _set(self._stack[-1], values)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


def _called(function: Any, arguments: Any) -> Call:
    if not isinstance(function, Name):
        raise BadPickle("it calls what is no name")
    return Call(function.name, arguments)


def _set(target: Any, values: list[Any]) -> None:
    """Set items of a dictionary, or of what stands for one. Keys that none has are left."""
    items = target.items if isinstance(target, Call) else target
    if not isinstance(items, dict) or len(values) % 2:
        raise BadPickle("it sets items of what has none")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if is_key(key):
            items[key] = value


def is_key(value: Any) -> bool:
    """Whether it can be the key of a tensor or an option: to hash any other could take for ever."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_KEY
    return isinstance(value, float | None) or is_number(value)


def is_number(value: Any) -> TypeGuard[int]:
    """Whether it is an integer of a size that sizes and keys have."""
    return isinstance(value, int) and value.bit_length() <= 64
