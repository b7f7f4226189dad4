"""The documentation site: what `mkdocs build` needs beside the pages in `docs/`.

    make docs

Every page of `docs/` is plain Markdown that can be read without the site. The hooks (`hooks.py`)
add what a page cannot hold without becoming stale: the reference from the code, drawings of the
diagrams, and the files of the repository that pages link.
"""
