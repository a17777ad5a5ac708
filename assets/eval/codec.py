"""Python values as data: JSON with tags for what JSON lacks. Shared by the runner and the judge.

Nothing here calls code of the other side: decoding builds builtin and standard-library values only. A value of any other
type stays where it is and is sent as a reference, {"t": "ref", "v": number}.
"""

import builtins
import collections
import json
from importlib import import_module  # modules that few programs need are loaded when they do

SMALL = 1 << 62  # larger integers are sent in hexadecimal, which has no limit on its digits


def encode(value, refer):
    """A value as JSON data. `refer(value)` gives the number of a reference, or raises."""

    def inner(x):
        kind = type(x)
        if kind is str or x is None or x is True or x is False:
            return x
        if kind is int and -SMALL < x < SMALL:
            return x
        if isinstance(x, int):
            x = int(x)
            return x if -SMALL < x < SMALL else {"t": "int", "v": hex(x)}
        if isinstance(x, float):
            x = float(x)
            return x if x - x == 0 else {"t": "float", "v": repr(x)}
        if isinstance(x, str):
            return str.__str__(x)
        if kind in COLLECTIONS:
            return COLLECTIONS[kind](x, inner)
        if isinstance(x, complex):
            return {"t": "complex", "v": [inner(x.real), inner(x.imag)]}
        if isinstance(x, (bytes, bytearray)):
            return {"t": "bytearray" if isinstance(x, bytearray) else "bytes", "v": x.hex()}
        to_text = TEXTS.get((kind.__module__, kind.__name__))
        if to_text:
            return {"t": kind.__name__, "v": to_text(x)}
        if isinstance(x, list):
            return [inner(each) for each in x]
        if isinstance(x, tuple):
            return {"t": "tuple", "v": [inner(each) for each in x]}
        if isinstance(x, (set, frozenset)):
            return {"t": "frozenset" if isinstance(x, frozenset) else "set", "v": [inner(each) for each in x]}
        if isinstance(x, dict):
            return {"t": "dict", "v": [[inner(key), inner(each)] for key, each in x.items()]}
        if kind is type and getattr(builtins, x.__name__, None) is x:
            return {"t": "type", "v": x.__name__}
        if kind.__module__ == "numpy" and getattr(x, "ndim", None) == 0 and hasattr(x, "item"):
            return inner(x.item())
        return {"t": "ref", "v": refer(x), "n": kind.__name__}

    return inner(value)


def pairs(tag):
    return lambda x, inner: {"t": tag, "v": [[inner(key), inner(each)] for key, each in x.items()]}


def items(tag):
    return lambda x, inner: {"t": tag, "v": [each if type(each) is str else inner(each) for each in x]}


COLLECTIONS = {
    list: lambda x, inner: [each if type(each) is str else inner(each) for each in x],
    tuple: items("tuple"),
    set: items("set"),
    frozenset: items("frozenset"),
    dict: pairs("dict"),
    collections.OrderedDict: pairs("OrderedDict"),
    collections.Counter: pairs("Counter"),
    collections.defaultdict: pairs("defaultdict"),
    collections.deque: items("deque"),
    range: lambda x, inner: {"t": "range", "v": [inner(x.start), inner(x.stop), inner(x.step)]},
}
TEXTS = {
    ("decimal", "Decimal"): str,
    ("fractions", "Fraction"): lambda x: f"{hex(x.numerator)}/{hex(x.denominator)}",
    ("datetime", "date"): lambda x: x.isoformat(),
    ("datetime", "datetime"): lambda x: x.isoformat(),
    ("datetime", "time"): lambda x: x.isoformat(),
    ("datetime", "timedelta"): lambda x: f"{x.days}/{x.seconds}/{x.microseconds}",
}


def of(module, name):
    return getattr(import_module(module), name)


def builtin_type(name):
    kind = vars(builtins)[name]
    if type(kind) is not type:
        raise TypeError(f"{name} is not a type")
    return kind


def fraction(text):
    over, under = text.split("/")
    return of("fractions", "Fraction")(int(over, 16), int(under, 16))


MAKERS = {
    "int": lambda v, inner: int(v, 16),
    "float": lambda v, inner: float(v),
    "complex": lambda v, inner: complex(inner(v[0]), inner(v[1])),
    "bytes": lambda v, inner: bytes.fromhex(v),
    "bytearray": lambda v, inner: bytearray.fromhex(v),
    "tuple": lambda v, inner: tuple(inner(each) for each in v),
    "set": lambda v, inner: {inner(each) for each in v},
    "frozenset": lambda v, inner: frozenset(inner(each) for each in v),
    "dict": lambda v, inner: {inner(key): inner(each) for key, each in v},
    "OrderedDict": lambda v, inner: collections.OrderedDict((inner(key), inner(each)) for key, each in v),
    "Counter": lambda v, inner: collections.Counter({inner(key): inner(each) for key, each in v}),
    "defaultdict": lambda v, inner: collections.defaultdict(None, {inner(key): inner(each) for key, each in v}),
    "deque": lambda v, inner: collections.deque(inner(each) for each in v),
    "range": lambda v, inner: range(*map(inner, v)),
    "type": lambda v, inner: builtin_type(v),
    "Decimal": lambda v, inner: of("decimal", "Decimal")(v),
    "Fraction": lambda v, inner: fraction(v),
    "date": lambda v, inner: of("datetime", "date").fromisoformat(v),
    "datetime": lambda v, inner: of("datetime", "datetime").fromisoformat(v),
    "time": lambda v, inner: of("datetime", "time").fromisoformat(v),
    "timedelta": lambda v, inner: of("datetime", "timedelta")(*map(int, v.split("/"))),
}


def decode(data, resolve):
    """The value of JSON data. `resolve(number, type name)` gives what a reference stands for."""

    def inner(x):
        if type(x) is list:
            return [each if type(each) is str else inner(each) for each in x]
        if type(x) is not dict:
            return x
        tag = x["t"]
        if tag == "ref":
            return resolve(x["v"], str(x.get("n")))
        return MAKERS[tag](x["v"], inner)

    return inner(data)


LONG = 10_000  # items of a list that is compared by its digest first
PIECE = 4096


def digest(value):
    """SHA-256 of a long list or tuple of plain values; None for any other. Equal digests mean equal values of equal types."""
    if type(value) not in (list, tuple) or len(value) < LONG:
        return None
    hashed = of("hashlib", "sha256")(type(value).__name__.encode())
    dumps = of("marshal", "dumps")
    try:
        for i in range(0, len(value), PIECE):
            hashed.update(dumps(value[i : i + PIECE], 2))  # version 2 has no references: the form follows from the values
    except ValueError:
        return None
    return hashed.hexdigest()


class Lines:
    """Lines of text over a file descriptor, each one a JSON value or whatever the caller makes of it."""

    def __init__(self, descriptor):
        self.input = open(descriptor, "rb", buffering=1 << 16, closefd=False)
        self.output = open(descriptor, "wb", buffering=0, closefd=False)

    def read(self):
        """The next line without its end; None after the last one."""
        line = self.input.readline()
        return line[:-1] if line.endswith(b"\n") else None

    def write(self, text):
        data = memoryview(text.encode() + b"\n")
        while data:
            data = data[self.output.write(data) :]


def to_json(data):
    return json.dumps(data, separators=(",", ":"))
