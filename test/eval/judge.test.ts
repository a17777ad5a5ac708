import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { PythonTest } from "../../lib/eval/index.js";
import { PythonSession } from "../../lib/eval/python-session.js";
import { checkTest, judges, named, noSandbox, program } from "./support.js";

let session: PythonSession;
const run = (source: string, test: PythonTest | string, sanitize?: string) =>
  session.run({ ...program(source, typeof test === "string" ? checkTest(test) : test), sanitize }, { seconds: 3 });
const statusOf = async (source: string, test: PythonTest | string, sanitize?: string) =>
  (await run(source, test, sanitize)).status;

describe.skipIf(noSandbox)(named("judging Python programs", noSandbox), () => {
  beforeAll(() => {
    const { sandbox, python } = judges();
    session = new PythonSession(sandbox, python);
  });
  afterAll(() => session.close());

  it.each([
    ["an object that equals everything", "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()"],
    [
      "a subclass that equals everything",
      "class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A(7)",
    ],
    ["sys.exit(0) on import", "import sys\nsys.exit(0)"],
    ["sys.exit(0) in the call", "import sys\ndef f(x): sys.exit(0)"],
    ["os._exit(0) on import", "import os\nos._exit(0)"],
    ["os._exit(0) in the call", "import os\ndef f(x): os._exit(0)"],
    ["a patched assertion", "import builtins\nbuiltins.AssertionError = ValueError\ndef f(x): return 7"],
    ["patched operators", "import operator\noperator.eq = lambda a, b: True\ndef f(x): return 7"],
    ["a patched encoder", "import json\njson.dumps = lambda *a, **k: 'true'\ndef f(x): return 7"],
    ["StopIteration", "def f(x): raise StopIteration"],
    ["forged replies", "import os\nfor _ in range(9): os.write(3, b'{\"v\": true}\\n')\ndef f(x): return 7"],
    ["a forged verdict", 'import os\nos.write(3, b\'V{"status":"passed","parts":{}}\\n\')\ndef f(x): return 7'],
    ["a reply that is no JSON", "import os\nos.write(3, b'nonsense\\n')\ndef f(x): return 7"],
    ["text that says it passed", "import sys\nsys.stdout.buffer.write(b'passed')\nprint('passed')\ndef f(x): return 7"],
    ["a closed channel", "import os\ndef f(x): os.close(3); return 2"],
    ["values too deep", "def f(x):\n    a = []\n    for _ in range(100000): a = [a]\n    return a"],
    [
      "deep JSON of its own",
      "import os\nos.write(3, b'{\"v\":' + b'['*200000 + b']'*200000 + b'}\\n')\ndef f(x): return 7",
    ],
    ["a name that is not there", "def g(x): return 2"],
    ["no Python", "def f(x: return 2"],
  ])("is not deceived by %s", async (_, source) => {
    const verdict = await run(source, "assert candidate(1) == 2\nassert [y for y in map(candidate, [2])] == [3]");
    expect(verdict.status).toBe("failed");
    // The next program meets a judge that works.
    expect(await statusOf("def f(x): return x + 1", "assert candidate(1) == 2")).toBe("passed");
  });

  it("takes values as Python has them", async () => {
    const values = [
      ...["None", "True", "12345678901234567890123456789", "-0.5", "1e300", "'\\ud800 \\x00'", "b'\\xff'", "2 + 3j"],
      ...[
        "[1, [2.0, '3']]",
        "(1, (2,))",
        "{1, 2}",
        "frozenset({1})",
        "{(1, 2): [3], 'a': None}",
        "range(1, 9, 2)",
        "10 ** 5000",
      ],
      ...["__import__('collections').Counter('aab')", "__import__('collections').deque([1, 2])", "int"],
      ...["__import__('decimal').Decimal('1.10')", "__import__('fractions').Fraction(1, 3)"],
      "__import__('datetime').datetime(2024, 2, 29, 1, 2, 3)",
    ];
    const tests = values.map((value) => `v = ${value}\nassert candidate(v) == v and type(candidate(v)) is type(v)`);
    const nan = "n = candidate(float('nan'))\nassert n != n\nassert candidate(float('-inf')) < 0";
    expect(await run("def f(x): return x", [...tests, nan].join("\n"))).toMatchObject({ status: "passed" });
  });

  it("keeps types apart that Python keeps apart", async () => {
    expect(await statusOf("def f(x): return [1, 2]", "assert candidate(1) == (1, 2)")).toBe("failed");
    expect(await statusOf("def f(x): return map(int, '12')", "assert candidate(1) == [1, 2]")).toBe("failed");
    expect(await statusOf("def f(x): return map(int, '12')", "assert list(candidate(1)) == [1, 2]")).toBe("passed");
    expect(await statusOf("def f(x): return True", "assert candidate(1) == 1")).toBe("passed");
  });

  it("passes errors on as what they are", async () => {
    const test =
      "try:\n    candidate(0)\n    assert False\nexcept ZeroDivisionError as error:\n    assert 'zero' in str(error)";
    expect(await statusOf("def f(x): return 1 / x", test)).toBe("passed");
    expect(await statusOf("def f(x): return 1", test)).toBe("failed");
  });

  it("leaves no trace of one program in the next", async () => {
    expect(
      await statusOf("import math\nmath.floor = None\nleft = 1\ndef f(x): return 2", "assert candidate(1) == 2"),
    ).toBe("passed");
    const next = "import math\ndef f(x): return (math.floor(2.5), 'left' in globals())";
    expect(await statusOf(next, "assert candidate(1) == (2, False)")).toBe("passed");
  });

  it("says that a test which calls nothing tests nothing", async () => {
    await expect(run("def f(x): return 1", "assert True")).rejects.toMatchObject({ code: "EVAL_DATA" });
    await expect(run("def f(x): return 1", "pass")).rejects.toThrow(/tests nothing/);
  });

  it("runs lines of asserts with classes of the program, as MBPP has them", async () => {
    const reference =
      "import sys\nclass Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\ndef total(p): return p.a + p.b\n";
    const test: PythonTest = {
      ...{ style: "asserts", reference, setup: "p = Pair(1, 2)\np.a = 5\n" },
      tests: ["assert total(p) == 7", "assert p.b == 2", "assert total(Pair(a=1, b=1)) == 2", "assert sys.maxsize > 1"],
    };
    expect(await statusOf(reference, test)).toBe("passed");
    expect(await statusOf(reference.replace("p.a + p.b", "p.a"), test)).toBe("failed");
  });

  it("compares an answer with a value, as CRUXEval does", async () => {
    const equal = (expression: string, expected: string): PythonTest => ({ style: "equal", expression, expected });
    const source = "def f(x): return x + 1";
    expect(await statusOf(source, equal("f(1)", "2"))).toBe("passed");
    expect(await statusOf(source, equal("1 + 1", "2"))).toBe("passed");
    expect(await statusOf(source, equal("2, 'a message of the assertion'", "2"))).toBe("passed");
    for (const cheat of ["3 or True", "2 == 2", "f", "__import__('os')._exit(0)", "", "2; x = 1"]) {
      expect(await statusOf(source, equal(cheat, "2"))).toBe("failed");
    }
  });

  const evalplus = (record: object, dataset: "humaneval" | "mbpp" = "mbpp"): PythonTest => ({
    ...{ style: "evalplus", dataset },
    record: JSON.stringify({ prompt: "", atol: 0, ...record }),
  });

  it("chooses EvalPlus' tolerance for each comparison", async () => {
    // The float among the base inputs made the original compare the integers after it with tolerance.
    const record = (id: string, plus: number[][]) => ({
      ...{ task_id: id, entry_point: "f", canonical_solution: "def f(x):\n    return x * 1000000000\n" },
      ...{ base_input: [[0.1], [1]], plus_input: plus },
    });
    const near = "def f(x):\n    return x * 1000000000 + (1e-7 if isinstance(x, float) else 0)\n";
    const off = "def f(x):\n    return x * 1000000000 + (1 if x == 2 else 0)\n";
    expect(await run(near, evalplus(record("Mbpp/9001", [[2]])))).toMatchObject({ status: "passed" });
    expect(await run(off, evalplus(record("Mbpp/9002", [[2]])))).toEqual({
      status: "failed",
      parts: { base: true, plus: false },
    });
  });

  it("compares long lists by their digest, and in full where that differs", async () => {
    const long = {
      ...{ task_id: "Mbpp/9003", entry_point: "f", base_input: [[20_000]], plus_input: [] },
      canonical_solution: "def f(n):\n    return [(i, str(i)) for i in range(n)]\n",
    };
    const test = evalplus(long);
    expect(await statusOf("def f(n):\n    return [(i, str(i)) for i in range(n)]\n", test)).toBe("passed");
    expect(await statusOf("def f(n):\n    return [(float(i), str(i)) for i in range(n)]\n", test)).toBe("passed");
    expect(await statusOf("def f(n):\n    return [(i, str(i)) for i in range(n - 1)] + [(0, '0')]\n", test)).toBe(
      "failed",
    );
    const forged = "import hashlib\nhashlib.sha256 = lambda *a: 1 / 0\ndef f(n):\n    return [0] * n\n";
    expect(await statusOf(forged, test)).toBe("failed");
  });

  it("accepts any root for find_zero, and sets where EvalPlus compares sets", async () => {
    const zero = {
      ...{ task_id: "HumanEval/32", entry_point: "find_zero", atol: 1e-4 },
      ...{ canonical_solution: "def find_zero(xs):\n    return 1.0\n", base_input: [[[-1, 0, 1]]], plus_input: [] },
    };
    expect(await statusOf("def find_zero(xs):\n    return -1.0\n", evalplus(zero, "humaneval"))).toBe("passed");
    expect(await statusOf("def find_zero(xs):\n    return 0.5\n", evalplus(zero, "humaneval"))).toBe("failed");
    const sets = {
      ...{
        task_id: "Mbpp/2",
        entry_point: "similar_elements",
        base_input: [
          [
            [1, 2],
            [2, 1],
          ],
        ],
        plus_input: [],
      },
      canonical_solution: "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    };
    expect(await statusOf("def similar_elements(a, b):\n    return [2, 1, 1]\n", evalplus(sets))).toBe("passed");
    expect(await statusOf("def similar_elements(a, b):\n    return [2]\n", evalplus(sets))).toBe("failed");
  });

  it("cleans up a model's text as EvalPlus does", async () => {
    const text =
      "Here is the code:\n\nimport math\n\ndef helper(x):\n    return x + 1\n\ndef f(x):\n    return helper(x)\n\nprint(f(\nand so on";
    expect(await statusOf(text, "assert candidate(1) == 2")).toBe("failed");
    expect(await statusOf(text, "assert candidate(1) == 2", "f")).toBe("passed");
    const noisy = "def f(x):\n    return x + 1\n\nraise SystemExit\n";
    expect(await statusOf(noisy, "assert candidate(1) == 2", "f")).toBe("passed");
  });
});
