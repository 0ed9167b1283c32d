"""Hooks of MkDocs: pages outside docs/ become pages of the site, and marked places of pages are filled from the code.

`<!-- generated: NAME -->` is replaced by what `MARKS[NAME]` returns.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

from marks import MARKS  # noqa: E402

ROOT = Path(__file__).parents[2]
#: Files outside docs/ that the site has too, by the path of each in the repository.
OUTSIDE = [*("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "config.example.yaml")]
OUTSIDE += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "systemd").rglob("*")) if path.is_file()]


def site_path(path: str) -> str:
    """Return where the site has a file of the repository; a directory of pages is its first page."""
    pages = sorted((ROOT / path).glob("*.md"))
    path = str(pages[0].relative_to(ROOT)) if pages else path
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def repository_path(page: str) -> str:
    """Return the file of the repository from which a page is made."""
    return "README.md" if page == "index.md" else page if page in OUTSIDE else f"docs/{page}"


def rewrite_links(markdown: str, page: str) -> str:
    """Return a page whose links between files of the repository lead to files of the site."""
    folder = posixpath.dirname(repository_path(page))

    def rewrite(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        if not (ROOT / path).exists():
            return found[0]
        return f"]({posixpath.relpath(site_path(path), posixpath.dirname(page) or '.')}{found[2] or ''})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)", rewrite, markdown)


def on_config(config):
    """Expand `decisions/` in the navigation to its pages."""
    decisions = [f"decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    for part in config["nav"]:
        for pages in part.values():
            if isinstance(pages, list):
                pages[:] = [{"Decisions": decisions} if page == "decisions/" else page for page in pages]
    return config


def on_files(files, config):
    """Add the files outside docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill the marked places, let links lead to files of the site, and show no navigation beside the first page."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    markdown = rewrite_links(markdown, page.file.src_uri)
    return re.sub(r"<!-- generated: ([a-z-]+) -->", lambda found: MARKS[found[1]](), markdown)


def on_page_content(html, page, config, files):
    """Let the empty corner of a table be no header, which a screen reader would announce without a name."""
    return html.replace("<th></th>", "<td></td>")
