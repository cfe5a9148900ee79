"""The `check` command, the first stage of every pipeline: reports wrong parameters before DVC removes anything.

DVC removes a stage's outs before it runs the stage. Without the check, a wrong value would cost the stage's results.
"""

import os
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.params.file import load
from stpp.run.locks import repair
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, write_text


def check(
    params: options.Params = None,
    out: Annotated[Path | None, Option(help="File to write if all parameters are valid.")] = None,
) -> None:
    """Check all parameters with every overlay, and repair a damaged dvc.lock.

    The overlays are the params files in pipelines/, without the presets.
    If DVC is killed while it writes dvc.lock, the file is left incomplete.
    The repair restores the last complete version.
    """
    if "DVC_STAGE" not in os.environ:  # under DVC, every stage has repaired it already
        for line in repair(root()):
            print(line)
    files, problems = options.params_files(params), dict[str, None]()
    load(files)
    beside = sorted(Path("pipelines").glob("*/*.yaml"))
    overlays = [file for file in beside if file.name != "dvc.yaml" and file.parent.name != "presets"]
    for overlay in overlays:
        try:
            load([*files, overlay])
        except StppError as error:
            problems |= dict.fromkeys(str(error).split("\n"))
    if problems:
        raise StppError("\n".join(problems))
    if out is not None:
        # Always the same text, so that stages that depend on the file do not run again.
        write_text(out, "params are valid\n")
    print(f"{', '.join(map(str, files))}, alone and with {len(overlays)} overlays: valid")
