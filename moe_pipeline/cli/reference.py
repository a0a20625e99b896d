"""The reference of the command line as Markdown, made from the commands themselves.

python -m moe_pipeline.cli.reference > docs/cli.md
"""

from __future__ import annotations

import inspect
from typing import Any

import typer

from moe_pipeline.cli import PROGRAM, app

INTRODUCTION = f"""# The command line

`{PROGRAM} COMMAND ...`. This page is made from the commands themselves by
`python -m moe_pipeline.cli.reference > docs/cli.md`; a test holds it to them.

- With `--json` the answer is the only thing on standard output; progress and notes go to standard error.
- Exit codes: 0 done; 1 something unexpected, run it again with `--traceback` to see where; 2 bad input, one sentence
  says what is allowed and nothing was written; 130 cancelled by Ctrl-C (143 by SIGTERM), nothing was written.
- Figures are either measured on this machine or estimated by the cost model of the edge, and every output says which.
"""


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    return "\n".join([INTRODUCTION, *(_section(name, command) for name, command in group.commands.items())])


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join([PROGRAM, name, *(_usage(argument) for argument in arguments), "[OPTIONS]"])
    lines = [f"## {name}", "", inspect.cleandoc(command.help or ""), "", "```", usage, "```", ""]
    lines += ["| | what it means | default |", "| --- | --- | --- |"]
    lines += [_row(f"`{argument.name.upper()}`", argument) for argument in arguments]
    lines += [_row(f"`{'`, `'.join(option.opts)}`", option) for option in options]
    return "\n".join(lines) + "\n"


def _usage(argument: Any) -> str:
    word = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _row(label: str, parameter: Any) -> str:
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif default is None or default is False:
        shown = ""
    else:
        shown = f"`{default}`"
    allowed = parameter.metavar if parameter.metavar and "|" in parameter.metavar else ""
    words = f"{parameter.help} ({allowed.replace('|', ', ')})" if allowed else parameter.help
    return f"| {label} | {words} | {shown} |"


if __name__ == "__main__":
    print(reference(), end="")
