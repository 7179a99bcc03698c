"""Links of texts that pages include: those of README.md begin at the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#:]+)\)")


def _from_page(match):
    text, target = match["text"], match["target"]
    if target.startswith("docs/"):
        return f"[{text}](/{target.removeprefix('docs/')})"
    if target == "slurm/README.md":
        return f"[{text}](/tutorial/first-cluster-job.md)"
    if (ROOT / target).is_file():
        return f"[{text}](/../{target})"  # copied beside the pages
    return text  # a folder: a page cannot open it


def _rewrite(app, relative_path, docname, content):
    content[0] = LINK.sub(_from_page, content[0])


def setup(app):
    """Rewrite what is included, before it is read."""
    app.connect("include-read", _rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
