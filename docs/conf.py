# How the pages are built. No network is used: there is no intersphinx.
import sys
from pathlib import Path

import fastopt

sys.path.append(str(Path(__file__).parent))  # where searchable.py is

project = "fastopt"
author = "fastopt contributors"
copyright = "fastopt contributors"
version = release = fastopt.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "searchable",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "examples"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

# pages
myst_heading_anchors = 3

# docstrings
autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
autodoc_mock_imports = ["mpi4py"]
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# the gallery: every page of docs/examples runs
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 60,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"fastopt {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["fastopt.css"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 6,
}
html_sidebars = {page: [] for page in ("index", "install", "quick_start", "reliability", "design")}


def skip_members_of_scikit_learn(app, what, name, member, skip, options):
    """Leave out what estimators inherit from scikit-learn: it is documented there, by links that lead nowhere here."""
    return skip or (getattr(member, "__module__", None) or "").startswith("sklearn") or None


def setup(app):
    app.connect("autodoc-skip-member", skip_members_of_scikit_learn)
