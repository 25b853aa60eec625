"""Interpret a pickle that can only build plain data: a closed list of opcodes and a closed list of names.

The interpreter builds numbers, text, tuples, lists, dicts and what the caller's table of names makes; it refuses
everything else by its name. The standard library's `pickletools` reads the opcodes' arguments, which runs nothing.
Where the caller allows it, classes below a prefix become inert records: their attributes are kept, and nothing of
theirs is imported or run.

Why not `pickle.Unpickler` with a restricted `find_class`: that restricts names alone. Its C code allocates a table as
long as the largest memo index (four bytes can ask for 64 GB), hashes any dict key (a few hundred bytes of nested
tuples hang it or overflow the C stack), and sets attributes of whatever is on the stack. Here the memo is a dict, dict
keys are short text or small numbers, and steps are counted, so the file's own size bounds time and memory.

>>> import io, pickle
>>> run(io.BytesIO(pickle.dumps({"a": [1, (2.0, None)]}, protocol=2)), names={})
{'a': [1, (2.0, None)]}
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MAXIMUM_OPCODES = 1_000_000  # a CLIP of a thousand tensors needs about forty thousand
MAXIMUM_KEY = 1000  # characters: comparing longer keys again and again takes long


class Refused(Exception):
    """The pickle is damaged or asks for something that weights do not need; the message is one line."""


class Stream(Protocol):
    """The stream that the interpreter reads: a BytesIO or a memory map."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Name:
    """An entry of the closed list: a name that a pickle may use, and what calling it builds (None: no calls)."""

    dotted: str
    build: Callable[[tuple[Any, ...]], Any] | None = None


@dataclass(eq=False)
class Record:
    """An object of a class that is known only by name: its attributes, without any behaviour."""

    kind: str
    attributes: dict[Any, Any]


@dataclass(frozen=True)
class RecordName:
    """A class whose objects become records."""

    dotted: str


def run(
    stream: Stream,
    names: Mapping[str, Name],
    persistent: Callable[[Any], Any] | None = None,
    *,
    records: str | None = None,
) -> Any:
    """Interpret one pickle and return what it builds.

    Args:
        stream: stands at the pickle's first byte; afterwards it stands right behind the pickle's STOP.
        names: the closed list, by dotted name ("collections.OrderedDict").
        persistent: turns a persistent id into an object; None refuses them.
        records: prefix of the classes whose objects become records, such as "__torch__."; None allows none.

    Raises:
        Refused: the pickle uses an opcode or a name off the lists, is damaged, or has too many steps.
    """
    machine = _Machine(names, persistent, records)
    try:
        for _ in range(MAXIMUM_OPCODES):
            opcode = _OPCODES[stream.read(1)]
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode, stream)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise Refused("its pickle is damaged or cut short; download the file again") from error
    raise Refused(f"its pickle has more than {MAXIMUM_OPCODES} steps, which no CLIP needs")


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, names: Mapping[str, Name], persistent: Callable[[Any], Any] | None, records: str | None) -> None:
        self.names = names
        self.persistent = persistent
        self.records = records
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: pickletools.OpcodeInfo, stream: Stream) -> None:
        if opcode.name == "GLOBAL":  # read here: pickletools would interpret escapes in the name
            self.push_name(f"{_line(stream)}.{_line(stream)}")
        elif opcode.name in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode.name])
        elif opcode.name in _LITERALS:
            self.stack.append(_argument(opcode, stream))
        elif opcode.name in _ACTIONS:
            _ACTIONS[opcode.name](self, _argument(opcode, stream))
        else:
            raise Refused(f"its pickle uses {opcode.name}, which weights do not need; nothing was run")

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def drop_to_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def build_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError(count)
        items = tuple(self.stack[len(self.stack) - count :])
        self.stack[len(self.stack) - count :] = [items]

    def build_tuple_to_mark(self, _: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("a list was expected")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("a dict was expected")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                raise Refused("its pickle has a dict key that is no short text or number; nothing was run")
            target[key] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def push_name(self, dotted: str) -> None:
        if self.records is not None and dotted.startswith(self.records) and len(dotted) <= MAXIMUM_KEY:
            self.stack.append(RecordName(dotted))
            return
        if dotted not in self.names:
            raise Refused(
                f"its pickle asks for {dotted[:80]!r}, which weights do not need; nothing was run "
                "(use the model.safetensors of this model, or a file that holds weights alone)"
            )
        self.stack.append(self.names[dotted])

    def push_name_from_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name was expected")
        self.push_name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise Refused("its pickle calls something that is not a name; nothing was run")
        if function.build is None:
            raise Refused(f"its pickle calls {function.dotted!r}, which is no constructor; nothing was run")
        self.stack.append(function.build(arguments))

    def build_record(self, _: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, RecordName) or arguments != ():
            raise Refused("its pickle uses NEWOBJ, which weights do not need; nothing was run")
        self.stack.append(Record(kind.dotted, {}))

    def set_state(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record) and type(state) is dict:
            target.attributes = state
        # torch attaches `_metadata` (module versions) to a state dict in this way; no other state is of use
        elif type(target) is not dict:
            raise Refused("its pickle sets the state of an object; nothing was run")

    def resolve_persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("its pickle refers to data outside of it where none can be")
        self.stack.append(self.persistent(self.stack.pop()))


def _line(stream: Stream) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name has no end")
    return line[:-1].decode()


def _argument(opcode: pickletools.OpcodeInfo, stream: Stream) -> Any:
    return opcode.arg.reader(stream) if opcode.arg else None  # type: ignore[arg-type]


def _is_key(key: Any) -> bool:
    if isinstance(key, str):
        return len(key) <= MAXIMUM_KEY
    return key is None or isinstance(key, float) or (isinstance(key, int) and key.bit_length() <= 64)


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
    | {"BINBYTES", "SHORT_BINBYTES"}
)
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": _Machine.build_tuple_to_mark,
    "TUPLE1": lambda machine, _: machine.build_tuple(1),
    "TUPLE2": lambda machine, _: machine.build_tuple(2),
    "TUPLE3": lambda machine, _: machine.build_tuple(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_to_mark()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "STACK_GLOBAL": _Machine.push_name_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.build_record,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.resolve_persistent,
}
