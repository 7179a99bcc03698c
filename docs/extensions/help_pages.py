"""The directive ``help-pages``: what each command prints for ``--help``, a section each."""

import click
from docutils import nodes
from docutils.parsers.rst import Directive

from dpsolve.hpc.cli.main import cli


class HelpPages(Directive):
    """A section for each command, in the order in which a newcomer meets them."""

    def run(self):
        """Return the sections."""
        whole = click.Context(cli, info_name="dpsolve", max_content_width=80, terminal_width=80)
        sections = [_section("dpsolve", cli.get_help(whole))]
        for name in cli.list_commands(whole):
            command = cli.commands[name]
            ctx = click.Context(
                command, parent=whole, info_name=name, max_content_width=80, terminal_width=80
            )
            sections.append(_section(f"dpsolve {name}", command.get_help(ctx)))
        return sections


def _section(title, text):
    section = nodes.section(ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)])
    section += nodes.title(title, title)
    section += nodes.literal_block(text, text, language="text")
    return section


def setup(app):
    """Offer the directive."""
    app.add_directive("help-pages", HelpPages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
