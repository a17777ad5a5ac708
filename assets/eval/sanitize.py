"""EvalPlus' clean-up of what a model wrote (evalplus/sanitize.py, Apache-2.0): the longest lines that parse, and of them the
imports and what the entry point needs. With Python's own parser in place of tree-sitter."""


def parses(text):
    import ast  # only here: most programs are run as they are

    try:
        ast.parse(text)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def longest_code(text):
    """The lines from i to j that parse and have the most lines that are not blank; the first such."""
    if parses(text):
        return text
    lines = text.split("\n")
    filled = [0]
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    best, most = (0, 0), 0
    for i in range(len(lines)):
        for j in range(len(lines) - 1, i, -1):
            count = filled[j + 1] - filled[i]
            if count <= most:
                break
            if parses("\n".join(lines[i : j + 1])):
                while j > i + 1 and filled[j] - filled[i] == count and parses("\n".join(lines[i:j])):
                    j -= 1
                best, most = (i, j), count
                break
    return "\n".join(lines[best[0] : best[1] + 1])


def identifiers(tree):
    """Every name that stands in a definition, also those of attributes and parameters."""
    import ast

    words = (getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "attr", "arg"))
    return {word for word in words if word}


def answers(function):
    """Whether a function returns or yields. EvalPlus drops generators, and with them its own solution of Mbpp/630."""
    import ast

    return any(isinstance(each, (ast.Return, ast.Yield, ast.YieldFrom)) for each in ast.walk(function))


def sanitize(text, entry):
    import ast

    code = longest_code(text)
    imports, definitions, names = [], [], set()
    for node in ast.parse(code).body:
        name = None
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(node)
        elif getattr(node, "decorator_list", None):
            continue  # as tree-sitter's decorated_definition is passed over
        elif isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.FunctionDef) and answers(node):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        if name is not None and name not in names:
            names.add(name)
            definitions.append((name, node))
    uses = {name: identifiers(node) for name, node in definitions}
    needed, queue = {entry}, [entry]
    while queue:
        fresh = uses.get(queue.pop(), set()) - needed
        needed |= fresh
        queue += fresh
    kept = imports + [node for name, node in definitions if name in needed]
    return "\n".join(ast.get_source_segment(code, node, padded=False) or "" for node in kept).strip() or code
