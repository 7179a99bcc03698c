"""The directive ``fields``: a table of a pydantic model's fields, and of each that these hold."""

import importlib
import inspect
import re
import types
import typing

from docutils import nodes
from docutils.parsers.rst import Directive
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", tuple: "list"}


class Fields(Directive):
    """Its argument is ``package.module.Class``; with `example`, the module's own comes first."""

    required_arguments = 1
    option_spec: typing.ClassVar = {"example": lambda given: True}

    def run(self):
        """Return the module's example, and the tables."""
        module, _, name = self.arguments[0].rpartition(".")
        home = importlib.import_module(module)
        found = []
        if "example" in self.options:
            text = _indented(home.__doc__)
            found.append(nodes.literal_block(text, text, language="toml"))
        for part, title in _parts(getattr(home, name), ""):
            if title:
                found.append(nodes.rubric(title, title))
            found.append(_table(part))
        return found


def _indented(text):
    """Return the indented block of a docstring."""
    lines = re.search(r"^ {4}.*?(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    return inspect.cleandoc(lines[0])


def _parts(model, title):
    yield model, title
    for name, field in model.model_fields.items():
        for inner in _members(field.annotation):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                yield from _parts(inner, f"{title[:-1]}.{name}]" if title else f"[{name}]")


def _members(annotation):
    """Return the leaves of a type: of ``dict[str, Range | tuple]`` the range and the tuple."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, dict):
        return [m for part in typing.get_args(annotation) for m in _members(part)]
    return [annotation]


def _takes(annotation):
    """Return what a field takes, in words."""
    leaves = [m for m in _members(annotation) if m is not type(None)]
    if typing.get_origin(annotation) is dict:
        return "table"
    words = []
    for leaf in leaves:
        if typing.get_origin(leaf) is typing.Literal:
            words += [f'"{x}"' if isinstance(x, str) else str(x).lower()
                      for x in typing.get_args(leaf)]  # fmt: skip
        elif inspect.isclass(leaf) and issubclass(leaf, BaseModel):
            words.append("table")
        else:
            words.append(WORDS[typing.get_origin(leaf) or leaf])
    return ", ".join(dict.fromkeys(words))


def _default(field):
    if field.default is PydanticUndefined and field.default_factory is None:
        return "needed"
    if field.default is None or field.default in ((), {}) or isinstance(field.default, BaseModel):
        return "-"
    if isinstance(field.default, str):
        return f'"{field.default}"'
    return str(field.default).lower() if isinstance(field.default, bool) else f"{field.default}"


def _table(model):
    rows = [(field.alias or name, _takes(field.annotation), _default(field), field.description)
            for name, field in model.model_fields.items()]  # fmt: skip
    heads = ["key", "takes", "default", "what it is"]
    width = 4 if any(row[3] for row in rows) else 3
    group = nodes.tgroup(cols=width)
    group += [nodes.colspec(colwidth=w) for w in (15, 20, 15, 50)[:width]]
    head, body = nodes.thead(), nodes.tbody()
    head += _row([nodes.Text(text) for text in heads[:width]])
    for key, takes, default, words in rows:
        name, meaning = nodes.literal(key, key), nodes.Text(words or "")
        cells = [name, nodes.Text(takes), _code(default), meaning]
        body += _row(cells[:width])
    group += [head, body]
    table = nodes.table()
    table += group
    return table


def _code(text):
    return nodes.Text(text) if text in ("needed", "-") else nodes.literal(text, text)


def _row(cells):
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", cell)
        row += entry
    return row


def setup(app):
    """Offer the directive."""
    app.add_directive("fields", Fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
