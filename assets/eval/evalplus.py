"""EvalPlus' way to judge (evalplus/eval/__init__.py and _special_oracle.py, Apache-2.0): the outputs of the canonical solution
on base and plus inputs are what a program must give. Differs in one point: the tolerance for floats is chosen for each
comparison, and does not stay for the inputs that follow."""

import copy
import math
import time

NOT_NONE = {"check_str", "text_match_three", "text_starta_endb"}
AS_SETS = {
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
    *("intersection_array", "find_dissimilar", "Diff"),
}
FACTOR, LEAST_SECONDS, MOST_SECONDS = 4.0, 4.0, 60.0
BATCH_INPUTS, BATCH_CHARACTERS = 256, 4_000_000
CACHE = {}

# Arguments that JSON cannot hold, by number of the task (evalplus/data/mbpp.py).
TUPLES = {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
TUPLES_IN_LISTS = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
TUPLES_IN_FIRST = {75, 413, 444, 753}
FIRST_IS_TUPLE = {250, 405, 446, 617, 720, 763, 808}
TUPLES_OF_TUPLES = {259, 401, 445}
ALL_TUPLES = {580, 615, 791}


def all_tuples(x):
    return tuple(all_tuples(each) for each in x) if isinstance(x, list) else x


def mbpp_inputs(number, inputs):
    if number in TUPLES:
        return [[tuple(each) for each in inp] for inp in inputs]
    if number in TUPLES_IN_LISTS:
        return [[[tuple(each) for each in inner] for inner in inp] for inp in inputs]
    if number in TUPLES_IN_FIRST:
        return [[[tuple(each) for each in inp[0]], inp[1]] for inp in inputs]
    if number in (106, 750):
        return [[inp[0], tuple(inp[1])] for inp in inputs]
    if number == 115:
        return [[[set(each) if isinstance(each, list) and each else {} for each in inp[0]]] for inp in inputs]
    if number == 124:
        return [(float(inp[0]), complex(inp[1])) for inp in inputs]
    if number in FIRST_IS_TUPLE:
        return [[tuple(inp[0]), inp[1]] for inp in inputs]
    if number in TUPLES_OF_TUPLES:
        return [[tuple(tuple(each) for each in inner) for inner in inp] for inp in inputs]
    if number == 278:
        return [[tuple(tuple(x) if isinstance(x, list) else x for x in inp[0])] for inp in inputs]
    if number == 307:
        return [[tuple(inp[0]), inp[1], inp[2]] for inp in inputs]
    if number == 722:
        return [[{key: tuple(value) for key, value in inp[0].items()}, *inp[1:]] for inp in inputs]
    if number == 252:
        return [[complex(inp[0])] for inp in inputs]
    if number in ALL_TUPLES:
        return [all_tuples(inp) for inp in inputs]
    return inputs


def evalplus_reference(test):
    """The problem with its inputs and the canonical solution's outputs. `seconds`: what it took for them."""
    record = json.loads(test["record"])
    key = (test["dataset"], record["task_id"])
    if key in CACHE:
        return CACHE[key]
    if len(CACHE) >= 8:
        CACHE.pop(next(iter(CACHE)))
    namespace = {"__name__": "reference"}
    exec(compile(record["prompt"] + record["canonical_solution"], "<reference>", "exec"), namespace)
    function = namespace[record["entry_point"]]
    begin = time.process_time()
    known = {"entry": record["entry_point"], "atol": record["atol"], "parts": {}}
    for part in ("base", "plus"):
        inputs = record[f"{part}_input"] or []
        if test["dataset"] == "mbpp":
            inputs = mbpp_inputs(int(record["task_id"].split("/")[-1]), inputs)
        outputs = [function(*copy.deepcopy(inp)) for inp in inputs]
        known["parts"][part] = batches(inputs, outputs)
    known["seconds"] = time.process_time() - begin
    CACHE[key] = known
    return known


def size_of(value):
    """Characters that a value takes when it is sent. Not of its repr, which takes quadratic time for a long integer."""
    if type(value) in (list, tuple) and len(value) >= LONG:
        return BATCH_CHARACTERS
    try:
        return len(to_json(plain(value)))
    except Exception:
        return 100  # it stays where it is


def batches(inputs, outputs):
    """Inputs and outputs in pieces that are sent together: few messages, and none of them large."""
    pieces, size = [], BATCH_CHARACTERS
    for inp, out in zip(inputs, outputs):
        length = size_of(inp) + size_of(out)
        if size + length > BATCH_CHARACTERS or len(pieces[-1][0]) == BATCH_INPUTS:
            pieces.append(([], []))
            size = 0
        pieces[-1][0].append(inp)
        pieces[-1][1].append(out)
        size += length
    return pieces


def run_evalplus(session, test, known):
    """Which parts the program passes."""
    session.limit = max(LEAST_SECONDS, FACTOR * known["seconds"])
    passed = {}
    for part, pieces in known["parts"].items():
        passed[part] = all(passed.values()) and all(
            same(session, test["dataset"], known, inputs, outputs) for inputs, outputs in pieces
        )
    return passed


def same(session, dataset, known, inputs, outputs):
    """Whether the program's outputs for some inputs are right."""
    args = [[plain(each) for each in inp] for inp in inputs]
    replies = session.send({"op": "many", "name": known["entry"], "args": args})
    if type(replies) is not list:
        return False
    for inp, expected, reply in zip(inputs, outputs, replies):
        try:
            if "h" in reply:
                if reply["h"] == digest(expected):
                    continue
                reply = session.send({"op": "full", "digest": str(reply["h"])})
            out = session.value(reply)
            if not equal(dataset, known["entry"], inp, out, expected, known["atol"]):
                return False
        except Exception:
            return False
    return len(replies) == len(inputs)


def equal(dataset, entry, inp, out, expected, atol):
    if dataset == "humaneval" and entry == "find_zero":
        return abs(sum(coefficient * math.pow(out, i) for i, coefficient in enumerate(inp[0]))) <= atol
    if dataset == "mbpp" and entry in NOT_NONE:
        return out == (expected is not None) if isinstance(out, bool) else (out is not None) == (expected is not None)
    if dataset == "mbpp" and entry in AS_SETS:
        return set(out) == set(expected)
    if bool(out == expected):
        return True
    if dataset == "mbpp" and entry == "are_equivalent":
        return True
    if dataset == "mbpp" and entry == "sum_div" and out == 0:
        return True
    if dataset == "mbpp" and entry == "surface_Area" and abs(out - surface_area(*inp)) <= atol:
        return True
    if dataset == "mbpp" and entry == "digit_distance_nums" and out == digit_distance(*inp):
        return True
    tolerance = atol or (1e-6 if is_floats(expected) else 0)
    return tolerance != 0 and type(out) is type(expected) and close(out, expected, tolerance)


def surface_area(edge, height):
    return round(edge**2 + 4 * (edge * math.sqrt((edge / 2) ** 2 + height**2)) / 2)


def digit_distance(one, two):
    one, two = str(one), str(two)
    length = max(len(one), len(two))
    return sum(abs(int(a) - int(b)) for a, b in zip(one.zfill(length), two.zfill(length)))


def is_floats(x):
    if isinstance(x, float):
        return True
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(isinstance(each, float) for each in x)


def close(out, expected, atol):
    """numpy.allclose with rtol 1e-7, for numbers and for lists of them in each other, of one shape."""
    if isinstance(expected, (list, tuple)):
        if not isinstance(out, (list, tuple)) or len(out) != len(expected):
            return False
        return all(close(a, b, atol) for a, b in zip(out, expected))
    if not isinstance(expected, (int, float, complex)) or not isinstance(out, (int, float, complex)):
        return False
    if out == expected:
        return True
    if isinstance(expected, float) and math.isinf(expected):
        return False
    return abs(out - expected) <= atol + 1e-7 * abs(expected)
