"""Write the code that can change a stage's result into the deps of every dvc.yaml: `python tests/deps.py`."""

import re
from pathlib import Path

from stpp.run.code import PACKAGE, closure, source

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"(?:^ +- stpp/\S+\n)+", re.MULTILINE)
COMMAND = re.compile(r"python -m stpp ([a-z-]+)")


def files(command: str) -> list[str]:
    """The project's modules that a command can reach, as paths below the root."""
    reached = closure(f"stpp.stages.{command.replace('-', '_')}")
    return sorted(source(module).relative_to(PACKAGE.parent).as_posix() for module in reached)


def rewritten(text: str) -> str:
    """A dvc.yaml with the block of code in each stage's deps, which follows its command, brought up to date."""
    parts, end = [], 0
    for command in COMMAND.finditer(text):
        block = CODE.search(text, command.end())
        assert block, f"no code in the deps of {command[0]}"
        indent = block[0][: block[0].index("-")]
        parts += [text[end : block.start()], "".join(f"{indent}- {file}\n" for file in files(command[1]))]
        end = block.end()
    return "".join(parts) + text[end:]


if __name__ == "__main__":
    for path in [ROOT / "dvc.yaml", *(ROOT / "pipelines").glob("*/dvc.yaml")]:
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
