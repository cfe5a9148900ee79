"""The `prepare` stage: reads every image and mask once, and writes the manifest."""

from stpp.ingest.drawing import draw_masks
from stpp.ingest.inspection import inspect
from stpp.params.file import load
from stpp.run.resume import root
from stpp.stages import options
from stpp.store.files import atomic_folder, raise_problems, write_text
from stpp.store.manifest import write_dataset


def prepare(out: options.Out, params: options.Params = None) -> None:
    """Check every image and mask of the data set, and write the manifest.

    All problems are reported at once (exit code 2). Unusual images that can be
    handled, such as grey-scale ones, are reported as warnings.
    """
    p = load(options.params_files(params))
    dataset, warnings, problems = inspect(p.data, p.runtime.workers, root() / ".stpp")
    with atomic_folder(out) as partial:
        if p.data.annotations:
            dataset, more, wrong = draw_masks(p.data, dataset, partial, p.runtime.workers)
            warnings, problems = warnings + more, problems + wrong
        for warning in warnings:
            print(f"warning: {warning}")
        raise_problems(problems, p.data.root)
        write_dataset(partial, dataset)
        write_text(partial / "warnings.txt", "".join(f"{w}\n" for w in warnings))
    masks = sum(bool(r.mask) for r in dataset.records.values())
    size = f"{len(dataset.records)} images, {masks} with masks, {len(dataset.classes)} classes"
    print(f"{dataset.name}: {size}; {out} (dataset.json, digest {dataset.digest})")
