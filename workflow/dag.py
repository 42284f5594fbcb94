"""Write the graph of milestones, as in `dvc dag`, into docs/pipeline.md.

Run `python workflow/dag.py` after a change of `dvc.yaml`. Dependencies that follow from others are left out, so that
the graph is legible; `dvc dag` has them all.
"""

import re
import subprocess
from pathlib import Path

PAGE = Path("docs/pipeline.md")
BEGIN, END = "<!-- milestones: python workflow/dag.py -->\n", "<!-- end of milestones -->\n"


def picture() -> str:
    """A Mermaid flowchart of the milestones, as a Markdown block."""
    said = subprocess.run(["dvc", "dag", "--mermaid"], capture_output=True, text=True, check=True).stdout
    names = dict(re.findall(r'(node\d+)\["(.+?)"\]', said))
    edges = {(names[one], names[other]) for one, other in re.findall(r"(node\d+)-->(node\d+)", said)}
    after: dict[str, set[str]] = {name: {other for one, other in edges if one == name} for name in names.values()}

    def reach(name: str) -> set[str]:
        return after[name] | {far for other in after[name] for far in reach(other)}

    kept = sorted(
        (one, other) for one, other in edges if not any(other in reach(near) for near in after[one] - {other})
    )
    ids = {name: f"n{number}" for number, name in enumerate(sorted(names.values()))}
    lines = [f'    {ids[name]}["{name}"]' for name in ids]
    lines += [f"    {ids[one]} --> {ids[other]}" for one, other in kept]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```"]) + "\n"


def replaced(text: str, block: str) -> str:
    """A page with the block between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE}: expected the lines '{BEGIN.strip()}' and '{END.strip()}' around the picture")
    return f"{before}{BEGIN}{block}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), picture()))
