"""Command check, and the first stage of every pipeline: what is wrong is said before DVC removes anything.

DVC removes a stage's outs before it runs the stage, so a wrong value would cost what the stage had made.
"""

import os
from pathlib import Path
from typing import Annotated

from typer import Option

from stpp.params.file import load
from stpp.run.locks import mend
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import StppError, write_text


def check(
    params: options.Params = None,
    out: Annotated[Path | None, Option(help="File to write if nothing is wrong.")] = None,
) -> None:
    """Check all parameters with every overlay, and mend a dvc.lock that a kill has cut."""
    if "DVC_STAGE" not in os.environ:  # else it is done for every stage
        for line in mend(root()):
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
        write_text(out, "params are valid\n")  # the same always, so that nothing that depends on it runs again
    print(f"{', '.join(map(str, files))}, alone and with {len(overlays)} overlays: valid")
