"""The course as a static book: the same notebooks, with their committed outputs, and no network.

    python docs/build_site.py [FOLDER]        # writes FOLDER/index.html; runs/site without a name
    python docs/build_site.py --pdf [FOLDER]  # and FOLDER/book.pdf, to print, by Chromium

Plots stay alive (plotly's own script lies beside the pages), formulas are MathJax from a package, solutions
have pages of their own at the end, or none with `CLASS_SOLUTIONS=0`. Needs the extra
`site`, and for the PDF `test`.
"""

import json
import shutil
import sys
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from plotly.offline import get_plotlyjs
from sphinx.cmd.build import main as sphinx

from rlhf_utils.environment import variable

ROOT = Path(__file__).resolve().parent.parent
PLOT = "application/vnd.plotly.v1+json"
DRAWN = (
    '<div class="alive" role="figure" aria-label="{title}">'
    '<script type="application/json">{figure}</script></div>'
)
PAGES = (
    "docs/manual",
    "docs/glossary",
    "docs/references",
    "docs/claims",
    "docs/attacks",
    "CONTRIBUTING",
    "SECURITY",
    "data/README",
)
INDEX = """# Train Your Own ChatGPT

{intro}

```{{toctree}}
:caption: Chapters
:maxdepth: 1
{chapters}
```

```{{toctree}}
:caption: To look things up
:maxdepth: 1
{pages}
```
"""
SOLUTIONS = """
```{{toctree}}
:caption: Solutions
:maxdepth: 1
{solutions}
```
"""


def title_of(figure: dict) -> str:
    """What a plot is called, for those who do not see it."""
    title = figure.get("layout", {}).get("title", {})
    words = title.get("text", "") if isinstance(title, dict) else title
    return escape((words or "plot").replace("<br>", " "))


def alive(notebook: dict) -> dict:
    """The notebook with plots that a page can draw itself, instead of static images."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get(PLOT)
            if figure:
                drawn = json.dumps(figure).replace("</", "<\\/")
                output["data"] = {"text/html": DRAWN.format(title=title_of(figure), figure=drawn)}
    return notebook


def introduction() -> str:
    """The README up to its list of chapters, without its title."""
    text = (ROOT / "README.md").read_text("utf-8")
    return text[text.index("\n") : text.index("## Chapters")].strip()


def write_notebooks(source: Path, folder: str) -> list[str]:
    """A folder of notebooks with plots that are alive; the names of their pages."""
    (source / folder).mkdir(parents=True, exist_ok=True)
    files = sorted((ROOT / folder).glob("*.ipynb"))
    for file in files:
        notebook = alive(json.loads(file.read_text("utf-8")))
        (source / folder / file.name).write_text(json.dumps(notebook), "utf-8")
    return [f"{folder}/{file.stem}" for file in files]


def write_source(source: Path) -> None:
    """What Sphinx reads: notebooks, pages and pictures, as they lie in the project."""
    shutil.copytree(ROOT / "docs" / "site" / "static", source / "_static")
    (source / "_static" / "plotly.min.js").write_text(get_plotlyjs(), "utf-8")
    shutil.copytree(ROOT / "docs" / "pictures", source / "docs" / "pictures")
    shutil.copytree(ROOT / "chapters" / "figures", source / "chapters" / "figures")
    for page in PAGES:
        text = (ROOT / f"{page}.md").read_text("utf-8").replace("../README.md", "../index.md")
        (source / page).parent.mkdir(exist_ok=True)
        (source / f"{page}.md").write_text(text, "utf-8")
    chapters = write_notebooks(source, "chapters")
    index = INDEX.format(intro=introduction(), chapters="\n".join(chapters), pages="\n".join(PAGES))
    if variable("CLASS_SOLUTIONS", "1").lower() not in ("0", "no", "false"):
        index += SOLUTIONS.format(solutions="\n".join(write_notebooks(source, "chapters/solutions")))
    (source / "index.md").write_text(index, "utf-8")


def build(source: Path, folder: Path, builder: str = "html") -> None:
    """Sphinx; a warning, such as of a link that leads nowhere, is an error."""
    settings = ["-c", str(ROOT / "docs" / "site"), "-D", f"html_static_path={source / '_static'}"]
    settings += ["-d", f"{source}-doctrees"]
    if sphinx(["-q", "-W", "--keep-going", "-b", builder, *settings, str(source), str(folder)]):
        sys.exit("The site was not built; what was wrong stands above.")


def print_book(page_file: Path, pdf: Path) -> None:
    """All pages as one PDF, with plots as they are before anybody touches them."""
    from playwright.sync_api import sync_playwright

    browser_path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_function("() => document.querySelectorAll('.alive:not(.js-plotly-plot)').length === 0")
        page.wait_for_function("() => !window.MathJax || MathJax.startup.promise.then(() => true)")
        margin = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
        page.pdf(path=pdf, format="A4", margin=margin, print_background=True)
        browser.close()


def main(folder: Path, pdf: bool) -> None:
    made_here = (folder / "objects.inv").exists()  # what Sphinx leaves in each of its sites
    if folder.exists() and any(folder.iterdir()) and not made_here:
        sys.exit(f"{folder} holds something that is no site of this course. Choose another folder.")
    with TemporaryDirectory() as temporary:
        source, site, single = (Path(temporary) / name for name in ("source", "site", "single"))
        write_source(source)
        build(source, site)
        if pdf:
            build(source, single, "singlehtml")
            print_book(single / "index.html", site / "book.pdf")
        shutil.rmtree(folder, ignore_errors=True)  # nothing of an older one is left, such as solutions
        shutil.copytree(site, folder)
    print(f"open {folder / 'index.html'}" + (f", print {folder / 'book.pdf'}" if pdf else ""))


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--pdf"]
    main(Path(names[0] if names else ROOT / "runs" / "site"), "--pdf" in sys.argv)
