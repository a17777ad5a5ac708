"""Decides whether a program passes its tests, in a process that never runs a line of the program.

The tests run here. Functions and classes of the program are proxies: a call sends its arguments through the harness to the
sandboxed runner (runner.py) and gets back plain data, so that every comparison is made of this process's own values.
codec.py and evalplus.py stand before this text.

Lines on descriptor 3. In: `ID<tab>{test}`, `ID<tab>=reply`, `ID<tab>!` when the program's process has ended.
Out: `S{...}` start the program's process, `C{...}` a request to it, `V{...}` the verdict.
"""

import ast
import builtins
import random
import sys


class Ended(BaseException):
    """The program's process has ended: no test can catch this by `except Exception`."""


class OutOfTime(BaseException):
    """The program used up the time of a call."""


class Session:
    """The conversation with one program."""

    def __init__(self, channel, number, limit):
        self.channel = channel
        self.number = number
        self.limit = limit
        self.calls = 0

    def send(self, request):
        self.calls += request["op"] in ("call", "many", "eval")
        self.channel.write("C" + to_json({**request, "limit": self.limit}))
        while True:
            line = self.channel.read()
            if line is None:
                sys.exit()
            number, _, text = line.partition(b"\t")
            if number != self.number:
                continue
            if text == b"!":
                raise Ended()
            return json.loads(text[1:])

    def ask(self, request):
        return self.value(self.send(request))

    def value(self, reply):
        """The value of a reply, or the error that it says, as the builtin class of that name."""
        if "v" in reply:
            return decode(reply["v"], lambda number, name: Remote(self, {"ref": number}, name))
        names, message = reply["e"]
        if "OutOfTime" in names:
            raise OutOfTime(message)
        for name in names:
            kind = getattr(builtins, str(name), None)
            # A StopIteration would end a loop of the test as if it had come to its end.
            if kind in (StopIteration, StopAsyncIteration):
                break
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise error_of(kind, message)
        raise Exception(f"{names[0]}: {message}")


def error_of(kind, message):
    try:
        return kind(message)
    except TypeError:  # UnicodeDecodeError and the like want more
        return Exception(f"{kind.__name__}: {message}")


def plain(value):
    """Values to send: a proxy goes back as the reference that it is."""

    def refer(each):
        if type(each) is Remote and "ref" in object.__getattribute__(each, "_target"):
            return object.__getattribute__(each, "_target")["ref"]
        raise TypeError(f"{type(each).__name__} cannot be given to the program")

    return encode(value, refer)


class Remote:
    """A function, a class or an object of the program. It equals nothing but itself, and is true."""

    def __init__(self, session, target, name):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_name", name)

    def __ask(self, operation, **more):
        ask = object.__getattribute__(self, "_session").ask
        return ask({"op": operation, **object.__getattribute__(self, "_target"), **more})

    def __call__(self, *args, **kwargs):
        pairs = [[name, plain(value)] for name, value in kwargs.items()]
        return self.__ask("call", args=[plain(each) for each in args], kwargs=pairs)

    def __getattr__(self, name):
        return self.__ask("get", attribute=name)

    def __setattr__(self, name, value):
        self.__ask("set", attribute=name, value=plain(value))

    def __iter__(self):
        return iter(self.__ask("iterate"))

    def __len__(self):
        return len(self.__ask("iterate"))

    def __getitem__(self, place):
        return self.__ask("iterate")[place]

    def __bool__(self):
        return True

    def __str__(self):
        return str(self.__ask("text"))

    def __eq__(self, other):
        if type(other) is not Remote:
            return False
        own, its = (object.__getattribute__(each, "_target") for each in (self, other))
        return own == its

    def __hash__(self):
        return hash(str(object.__getattribute__(self, "_target")))


def parsed(source):
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def defined(tree):
    """Names that a module defines at its top."""
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name))
    return names


def loaded(text):
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def run_check(session, test):
    """HumanEval: a function `check(candidate)`. Helper functions of the prompt come from the reference."""
    namespace = {"__name__": "test"}
    exec(compile(test["reference"], "<reference>", "exec"), namespace)
    entry = test["entryPoint"]
    namespace[entry] = Remote(session, {"name": entry}, "function")
    exec(compile(test["test"], "<test>", "exec"), namespace)
    namespace["check"](namespace[entry])


def run_asserts(session, test):
    """MBPP: lines of code that use the names that the reference defines."""
    reference = parsed(test["reference"])
    namespace = {"__name__": "test"}
    imports = [node for node in reference.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), "<imports>", "exec"), namespace)
    exec(compile(test.get("imports", ""), "<imports>", "exec"), namespace)
    used = loaded("\n".join([test["setup"], *test["tests"]]))
    for name in used & (defined(reference) or (used - set(dir(builtins)) - set(namespace))):
        namespace[name] = Remote(session, {"name": name}, "function")
    exec(compile(test["setup"], "<setup>", "exec"), namespace)
    for line in test["tests"]:
        exec(compile(line, "<test>", "exec"), namespace)


def run_equal(session, test):
    """CRUXEval: `assert EXPECTED == ANSWER`, of which ANSWER is the program's."""
    statement = ast.parse(f"assert {test['expected']} == {test['expression']}")
    [node] = statement.body
    if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
        raise SyntaxError("the answer is not one expression")
    if ast.dump(node.test.left) != ast.dump(ast.parse(test["expected"], mode="eval").body):
        raise SyntaxError("the answer is not one expression")
    expected = eval(compile(test["expected"], "<expected>", "eval"), {})
    assert expected == session.ask({"op": "eval", "expression": ast.unparse(node.test.comparators[0])})


STYLES = {"check": run_check, "asserts": run_asserts, "equal": run_equal}


def judge(channel, number, test):
    """The verdict on one program."""
    session = Session(channel, number, test.get("callSeconds"))
    phase = "load"
    try:
        random.seed(0)
        known = evalplus_reference(test) if test["style"] == "evalplus" else None
        channel.write("S" + to_json({"seconds": known["seconds"] if known else 0}))
        load = {"op": "load", "source": test["source"], "sanitize": test.get("sanitize")}
        session.value(session.send(load))
        phase = "test"
        parts = {}
        if known:
            parts = run_evalplus(session, test, known)
        else:
            STYLES[test["style"]](session, test)
        if session.calls == 0:
            return {"status": "no tests"}
        passed = all(parts.values())
        verdict = {"status": "passed" if passed else "failed", "parts": parts}
        if test.get("usage"):
            verdict["seconds"] = float(session.ask({"op": "usage"}))
        return verdict
    except Ended:
        return {"status": "ended"}
    except OutOfTime:
        return {"status": "timeout"}
    except BaseException as error:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return {"status": "failed", "detail": f"{phase}: {words}"[:300]}


def main():
    channel = Lines(3)
    while (line := channel.read()) is not None:
        number, _, text = line.partition(b"\t")
        if text[:1] == b"{":
            channel.write("V" + to_json(judge(channel, number, json.loads(text))))


if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    getattr(sys, "set_int_max_str_digits", id)(0)
    main()
