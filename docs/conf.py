"""Sphinx configuration: ``scripts/docs`` builds ``site/`` by it, and fetches nothing."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "extensions"))

import dpsolve as dp  # noqa: E402 - after the path

project = "dpsolve"
author = "the dpsolve authors"
project_copyright = "the dpsolve authors, BSD-3-Clause"
version = release = dp.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "fields",
    "help_pages",
    "mathml",
    "repository_links",
]
exclude_patterns = ["extensions"]
root_doc = "index"
smartquotes = False  # commands and TOML are quoted as they are typed

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types, in words
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"
add_module_names = False
python_display_short_literal_types = True

html_theme = "furo"
html_title = f"dpsolve {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["style"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_baseurl = ""
