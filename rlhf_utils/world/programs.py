"""Runs the small programs that the small world asks for, and nothing else.

An interpreter over Python's own syntax tree knows assignments, dictionaries and lists, `for … in range(…)`
or over a list, `print`, functions, string and whole-number arithmetic. It takes at most `STEPS` steps and
prints at most `LINES` lines. Whatever else a program holds (imports, attributes, other calls) is refused,
so that text written by a model can be run.
"""

import ast
import operator
import warnings

STEPS, LINES, LENGTH, DEPTH = 500, 50, 200, 8
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


class Refused(Exception):
    """The program does not parse, holds what the interpreter does not know, or takes too long."""


class NoPython(Refused):
    """The text does not parse."""


class Return(Exception):
    def __init__(self, value):
        self.value = value


class Interpreter:
    """Runs one program; `lines` is what it printed."""

    def __init__(self):
        self.lines: list[str] = []
        self.steps = 0
        self.functions: dict[str, ast.FunctionDef] = {}
        self.names: dict = {}  # of the program itself, which its functions may read

    def step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise Refused(f"more than {STEPS} steps")

    def block(self, statements: list[ast.stmt], names: dict, depth: int = 0) -> None:
        for statement in statements:
            self.step()
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = self.value(value, names, depth)
                case ast.Expr(value=value):
                    self.value(value, names, depth)
                case ast.For(target=ast.Name(id=name), iter=over, body=body, orelse=[]):
                    values = self.value(over, names, depth)
                    if not isinstance(values, (range, list, dict)):
                        raise Refused("a loop over something else than a range, a list or a dictionary")
                    for item in values:
                        self.step()
                        names[name] = item
                        self.block(body, names, depth)
                case ast.FunctionDef(
                    name=name,
                    args=ast.arguments(posonlyargs=[], vararg=None, kwonlyargs=[], kwarg=None, defaults=[]),
                    decorator_list=[],
                ):
                    self.functions[name] = statement
                case ast.Return(value=value):
                    raise Return(self.value(value, names, depth) if value else None)
                case ast.Pass():
                    pass
                case _:
                    raise Refused(f"{type(statement).__name__} is not known here")

    def value(self, node: ast.expr, names: dict, depth: int):
        self.step()
        match node:
            case ast.Constant(value=str() | int() as value) if len(str(value)) <= LENGTH:
                return value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Dict(keys=keys, values=values) if all(keys):
                return {self.key(k, names, depth): self.value(v, names, depth) for k, v in zip(keys, values)}
            case ast.List(elts=items):
                return [self.value(item, names, depth) for item in items]
            case ast.Subscript(value=table, slice=index):
                found, key = self.value(table, names, depth), self.key(index, names, depth)
                try:
                    return found[key]
                except (KeyError, IndexError, TypeError):
                    raise Refused("a key that is not there") from None
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return self.arithmetic(
                    type(op), self.value(left, names, depth), self.value(right, names, depth)
                )
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(name, [self.value(a, names, depth) for a in arguments], depth)
        raise Refused(f"{type(node).__name__} is not known here")

    def key(self, node: ast.expr, names: dict, depth: int):
        value = self.value(node, names, depth)
        if not isinstance(value, (str, int)):
            raise Refused("a key that is neither text nor a number")
        return value

    @staticmethod
    def arithmetic(op: type, left, right):
        if isinstance(left, int) and isinstance(right, int) and max(abs(left), abs(right)) <= 10**6:
            return OPERATORS[op](left, right)
        if (
            op is ast.Add
            and isinstance(left, str)
            and isinstance(right, str)
            and len(left) + len(right) <= LENGTH
        ):
            return left + right
        text, times = (left, right) if isinstance(left, str) else (right, left)
        if (
            op is ast.Mult
            and isinstance(text, str)
            and isinstance(times, int)
            and times <= LENGTH
            and len(text) * max(times, 0) <= LENGTH
        ):
            return text * times
        raise Refused("arithmetic that is not known here")

    def call(self, name: str, values: list, depth: int):
        if name in self.functions:
            function = self.functions[name]
            parameters = [a.arg for a in function.args.args]
            if len(parameters) != len(values) or depth >= DEPTH:
                raise Refused("a call with other arguments, or too deep")
            try:
                self.block(function.body, self.names | dict(zip(parameters, values)), depth + 1)
            except Return as result:
                return result.value
            return None
        if name == "print":
            if not all(isinstance(v, (str, int)) for v in values):
                raise Refused("only text and numbers are printed")
            self.lines += " ".join(map(str, values)).split("\n")
            if len(self.lines) > LINES:
                raise Refused(f"more than {LINES} lines")
            return None
        if (
            name == "range"
            and 1 <= len(values) <= 3
            and all(isinstance(v, int) for v in values)
            and values[2:] != [0]
        ):
            return range(*values)
        raise Refused(f"{name}() is not known here")


def run(source: str) -> list[str]:
    """The lines that a program prints; raises Refused."""
    if len(source) > 2000:
        raise Refused("a program longer than 2,000 characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a model's mistakes are counted, not told
            tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoPython("no Python") from None
    interpreter = Interpreter()
    try:
        interpreter.block(tree.body, interpreter.names)
    except Return:
        raise Refused("return outside of a function") from None
    except RecursionError:
        raise Refused("nested too deeply") from None
    return interpreter.lines
