"""What a gateway calls, from the signatures and docstrings of :class:`hermes_tasks.TurnSync`."""

from __future__ import annotations

import inspect

from devtools.reference import markdown
from hermes_tasks.gateway.sync import CloseReport, Receipt, TurnSync

_HEAD = """\
# TurnSync

The whole API of a gateway. A [quickstart](../quickstart.md) shows it at work, and its
[errors](errors.md) have a page of their own.

"""


def page() -> str:
    """The page ``reference/gateway.md``."""
    text = _HEAD + _section("##", "TurnSync", TurnSync.__init__, TurnSync)
    for name, member in vars(TurnSync).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            text += f"### {name}\n\n{markdown.docstring(member)}\n"
        else:
            text += _section("###", name, member, member)
    for kind in (Receipt, CloseReport):
        text += f"## {kind.__name__}\n\n{markdown.docstring(kind)}\n"
    return text


def _section(depth: str, name: str, called: object, documented: object) -> str:
    assert callable(called)
    signature = inspect.signature(called)
    lines = [
        f"    {str(parameter).replace(chr(39), '')},"
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    if any(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values()):
        lines.insert(0, "    *,")
    answer = "" if name == "TurnSync" else f" -> {signature.return_annotation}"
    call = f"{name}(\n" + "\n".join(lines) + f"\n){answer}" if lines else f"{name}(){answer}"
    return f"{depth} {name}\n\n{markdown.block(call, 'python')}\n{markdown.docstring(documented)}\n"
