"""`make walkthrough`: run the code of docs/walkthrough.md on the demo's results, and insert its output.

Blocks marked `python` run in order in one namespace, as in an interactive session. A block marked `text` after one of
them is its output. The last line has a digest of the code that was run. Pictures are copied from where the code writes
them to where the page shows them.
"""

import contextlib
import hashlib
import io
import re
import shutil
from pathlib import Path

PAGE, PICTURES = Path("docs/walkthrough.md"), Path("results/walkthrough")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- what is printed is of code (\w*) -->\n\Z", re.MULTILINE)
PICTURE = re.compile(r"!\[[^]]*]\((walkthrough/[^)]+)\)")


def run(page: str, name: str) -> list[str]:
    """The output of each block of a page. Errors show the page's line numbers."""
    namespace: dict[str, object] = {"__name__": "walkthrough"}
    printed = []
    for block in BLOCK.finditer(page):
        line = page.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], name, "exec")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(code, namespace)
        printed.append(said.getvalue())
    return printed


def digest(page: str) -> str:
    """The digest of a page's code."""
    return hashlib.sha256("".join(block[1] for block in BLOCK.finditer(page)).encode()).hexdigest()[:16]


def rewritten(page: str, printed: list[str]) -> str:
    """The page with these outputs and the digest of its code."""
    if not MARK.search(page):
        raise ValueError(f"{PAGE}: expected '<!-- what is printed is of code ... -->' as its last line")
    outputs = iter(printed)

    def with_output(block: re.Match[str]) -> str:
        said = next(outputs)
        return f"```python\n{block[1]}```\n" + (f"\n```text\n{said}```\n" if said else "")

    return MARK.sub(f"<!-- what is printed is of code {digest(page)} -->\n", BLOCK.sub(with_output, page))


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(rewritten(page, run(page, str(PAGE))))
    for picture in PICTURE.findall(page):
        target = PAGE.parent / picture
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(PICTURES / target.name, target)
