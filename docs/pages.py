"""A hook of MkDocs that adds README.md (the front page), CONTRIBUTING.md, CHANGELOG.md and linked files to the site.

Pages link to each other by their paths in the repository, so that the links work there too. On the site README.md is
index.md and lies in the same folder as the pages in docs/, so the links are rewritten.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie outside docs/, and their names on the site."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
"""The path in a Markdown link, without its anchor."""


def on_files(files, config):
    """Adds the pages outside docs/, and every file of the repository outside docs/ to which a page links."""
    sources = {path: ROOT / path for path in PAGES}
    sources |= {f"docs/{file.src_uri}": Path(file.abs_src_path) for file in files.documentation_pages()}
    for path, source in sources.items():
        text = source.read_text()
        if path in PAGES:
            files.append(File.generated(config, PAGES[path], content=site_links(text, path)))
        for link in LINK.findall(text):
            target = in_repository(link, path)
            known = target in PAGES or target.startswith(("docs/", "..")) or files.get_file_from_path(target)
            if not known and (ROOT / target).is_file():
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown, page, **kwargs):
    """Rewrites the links of the pages in docs/; those of the generated pages are rewritten already."""
    return markdown if page.file.generated_by else site_links(markdown, f"docs/{page.file.src_uri}")


def site_links(text, path):
    """The text of the page at ``path`` with its links as they are on the site."""
    folder = posixpath.dirname(PAGES.get(path, path.removeprefix("docs/")))

    def on_site(link):
        target = in_repository(link[1], path)
        return posixpath.relpath(PAGES.get(target, target.removeprefix("docs/")), folder or ".")

    return LINK.sub(on_site, text)


def in_repository(link, path):
    """The path in the repository to which ``link`` leads from the page at ``path``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
