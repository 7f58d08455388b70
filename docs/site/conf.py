"""Sphinx's settings for the site; `docs/build_site.py` writes what it reads."""

project = "Train Your Own ChatGPT"
author = "its developers"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
nb_execution_mode = "off"  # outputs are those that are committed
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
exclude_patterns = ["site"]
html_theme = "sphinx_book_theme"
html_title = project
html_js_files = [("plotly.min.js", {"defer": "defer"}), ("alive.js", {"defer": "defer"})]
html_css_files = ["book.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands at the side
    "use_download_button": False,
    "use_fullscreen_button": False,
}
