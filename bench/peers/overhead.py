"""Single operators on tiny tensors as Python calls them: the peer of bench/overhead.ts, which talks to it in lines of JSON.

A command is { "case": name, "count": n, "repeats": r } or { "threads": n }; the answer to the first is the median of r
timings of n calls each, in nanoseconds a call.
"""

import json
import statistics
import sys
import timeit

import torch

names = {
    "torch": torch,
    "a": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "b": torch.tensor([5.0, 6.0, 7.0, 8.0]),
    "c": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "g": torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True),
    "m": torch.ones(4, 4),
    "x": torch.ones(8, 16),
    "s": torch.tensor(1.0),
    "inputs": [1.0, 2.0, 3.0, 4.0],
}

cases = {
    "add": "a + b",
    "add, requires_grad": "g + b",
    "mul by a scalar": "a * 2.5",
    "add in place": "c.add_(b)",
    "relu": "a.relu()",
    "view": "m.view(16)",
    "transpose": "m.transpose(0, 1)",
    "sum over a dim": "m.sum(0)",
    "sum, named arguments": "m.sum(0, True, dtype=torch.float64)",
    "slices": "x[0:4, 2:8]",
    "one index": "x[1]",
    "matmul 4 x 4": "m.matmul(m)",
    "cat": "torch.cat([m, m], 0)",
    "softmax": "m.softmax(-1)",
    "zeros": "torch.zeros(4, 4)",
    "tensor from a list": "torch.tensor(inputs)",
    "to bfloat16": "m.to(torch.bfloat16)",
    "shape": "x.shape",
    "item": "s.item()",
    "forward and backward": "(g * b).sum().backward(); g.grad = None",
}

for line in sys.stdin:
    command = json.loads(line)
    if "threads" in command:
        torch.set_num_threads(command["threads"])
        print(json.dumps({}), flush=True)
        continue
    timer = timeit.Timer(cases[command["case"]], globals=names)
    count = command["count"]
    times = timer.repeat(command["repeats"], count)
    print(json.dumps({"ns": statistics.median(times) / count * 1e9}), flush=True)
