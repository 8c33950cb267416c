"""Pickles read as data: which names they refer to and what they would build, without building it.

A pickle is a program for a small stack machine. The standard library's `pickletools` splits it into
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
    """Not a pickle, or one that is truncated or does what no writer of models does."""


@dataclass(frozen=True)
class Name:
    """A class or function, as `module.name`."""

    name: str


@dataclass(eq=False)
class Call:
    """What a call of `function` would return: part of a model, a tensor, an ordered dictionary.

    `items` are those that the pickle sets on it; `state` is what the pickle restores it with.
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
    """A pickle's value, and the names and storages that it refers to."""

    value: Any = None
    names: set[str] = field(default_factory=set)
    persistent: list[Any] = field(default_factory=list)


_MARK = object()


def read_pickle(file: IO[bytes]) -> Pickled:
    """Follow one pickle from the file's current position to its STOP. Raises `BadPickle`."""
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_INSTRUCTIONS or len(machine.found.names) > _MOST_NAMES:
                raise BadPickle("it is larger than any model's")
            machine.step(opcode.name, argument)
    except BadPickle:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BadPickle(str(error)[:200]) from None
    return machine.found


class _Machine:
    """The stack and the memo of the pickle machine."""

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

    def _pop_to_mark(self) -> list[Any]:
        """Pop the last mark and return what lay above it."""
        taken: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _push_name(self, module: Any, name: Any) -> None:
        # Not a tuple: nested tuples that share parts are small here, but endless when formatted.
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("a name that is no text")
        # Cut off both: a file can refer to a name of megabytes again and again.
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
        self._pop_to_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _global(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_name(module, name)

    def _inst(self, argument: str) -> None:
        arguments = tuple(self._pop_to_mark())
        self._global(argument)
        self._stack.append(_make_call(self._stack.pop(), arguments))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._pop_to_mark()
        self._stack.append(_make_call(function, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_make_call(function, arguments))

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
        # A module's source code is saved as such a reference, too: ('module', class, file, text).
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
        self._stack.append(tuple(self._pop_to_mark()))

    def _push_tuple(self, count: int) -> None:
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(taken)

    def _tuple1(self, _: Any) -> None:
        self._push_tuple(1)

    def _tuple2(self, _: Any) -> None:
        self._push_tuple(2)

    def _tuple3(self, _: Any) -> None:
        self._push_tuple(3)

    def _list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._stack.append({})
        _set(self._stack[-1], values)

    def _frozenset(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

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
        values = self._pop_to_mark()
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _set(self._stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        values = self._pop_to_mark()
        _set(self._stack[-1], values)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}


def _make_call(function: Any, arguments: Any) -> Call:
    if not isinstance(function, Name):
        raise BadPickle("it calls what is no name")
    return Call(function.name, arguments)


def _set(target: Any, values: list[Any]) -> None:
    """Set items of a dictionary or of its stand-in, skipping what is no key of a model's."""
    items = target.items if isinstance(target, Call) else target
    if not isinstance(items, dict) or len(values) % 2:
        raise BadPickle("it sets items of what has none")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if is_key(key):
            items[key] = value


def is_key(value: Any) -> bool:
    """Tell whether a tensor or an option may have this key; hashing others could take forever."""
    if isinstance(value, str):
        return len(value) <= _LONGEST_KEY
    return isinstance(value, float | None) or is_number(value)


def is_number(value: Any) -> TypeGuard[int]:
    """Tell whether a value is an integer of at most 64 bits, as sizes and keys are."""
    return isinstance(value, int) and value.bit_length() <= 64
