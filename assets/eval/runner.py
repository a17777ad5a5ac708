"""Runs a program that a model wrote, inside the sandbox, and calls its functions on request of the judge.

Requests and replies are JSON lines on descriptor 3; what the program prints goes elsewhere. Nothing that is secret is here:
the program may read all of this process's memory and forge replies, but no reply is of use without the expected values,
which only the judge has. codec.py stands before this text.
"""

import signal
import sys
import time
import types

CALL_ERRORS = 200  # characters of an error's message


class OutOfTime(BaseException):
    pass


class Runner:
    def __init__(self, channel):
        self.channel = channel
        self.objects = []
        self.kept = {}
        self.module = types.ModuleType("candidate")
        sys.modules["candidate"] = self.module
        signal.signal(signal.SIGPROF, self.on_time)

    def on_time(self, *_):
        raise OutOfTime("time limit of one call")

    def refer(self, value):
        self.objects.append(value)
        return len(self.objects) - 1

    def target(self, request):
        if "ref" in request:
            return self.objects[request["ref"]]
        return vars(self.module)[request["name"]]

    def arguments(self, data):
        return decode(data, lambda number, _: self.objects[number])

    def load(self, request):
        source = request["source"]
        if request.get("sanitize"):
            source = sanitize(source, request["sanitize"])
        exec(compile(source, "<candidate>", "exec", dont_inherit=True), vars(self.module))

    def call(self, request):
        function = self.target(request)
        return function(*self.arguments(request["args"]), **dict(self.arguments(request.get("kwargs", []))))

    def eval(self, request):
        return eval(compile(request["expression"], "<answer>", "eval", dont_inherit=True), vars(self.module))

    def get(self, request):
        return getattr(self.target(request), request["attribute"])

    def set(self, request):
        setattr(self.target(request), request["attribute"], self.arguments(request["value"]))

    def iterate(self, request):
        return list(self.target(request))

    def text(self, request):
        return str(self.target(request))

    def full(self, request):
        return self.kept[request["digest"]]

    def usage(self, request):
        return time.process_time()

    def answer(self, request):
        """The result of a request: {"v": value} or {"e": [names of the error's classes, message]}."""
        seconds = request.get("limit")
        try:
            if seconds:
                signal.setitimer(signal.ITIMER_PROF, seconds)
            value = OPERATIONS[request["op"]](self, request)
            if seconds:
                signal.setitimer(signal.ITIMER_PROF, 0)  # encoding is the harness' own time
            if request.get("digests") and (short := digest(value)):
                self.kept[short] = value
                return {"h": short}
            return {"v": encode(value, self.refer)}
        except BaseException as error:
            names = [each.__name__ for each in type(error).__mro__]
            try:
                message = str(error)[:CALL_ERRORS]
            except BaseException:
                message = ""
            return {"e": [names, message]}
        finally:
            if seconds:
                signal.setitimer(signal.ITIMER_PROF, 0)

    def many(self, request):
        """Calls with one list of arguments after the other, up to the first that fails."""
        one = {**request, "op": "call", "digests": True}
        results = []
        self.kept = {}
        for args in request["args"]:
            one["args"] = args
            results.append(self.answer(one))
            if "e" in results[-1]:
                break
        return results

    def run(self):
        while (line := self.channel.read()) is not None:
            request = json.loads(line)
            result = self.many(request) if request["op"] == "many" else self.answer(request)
            try:
                text = to_json(result)
            except BaseException as error:
                text = to_json({"e": [[type(error).__name__], "the value cannot be sent"]})
            self.channel.write(text)


OPERATIONS = {
    name: getattr(Runner, name) for name in ("load", "call", "eval", "get", "set", "iterate", "text", "full", "usage")
}

if __name__ == "__main__":
    getattr(sys, "set_int_max_str_digits", id)(0)
    Runner(Lines(3)).run()
