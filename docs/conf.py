"""How the docs site is built: `make docs`, from the repository alone."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import site_pages  # noqa: E402

import mmsalmask  # noqa: E402

project = "mmsalmask"
author = "the mmsalmask contributors"
copyright = author
version = release = mmsalmask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", *site_pages.unavailable()]

html_theme = "furo"
html_title = "mmsalmask"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
napoleon_use_rtype = False


def setup(app) -> None:
    site_pages.write()
    app.connect("source-read", site_pages.mend_links)
    app.connect("autodoc-process-docstring", site_pages.escape_bars)
