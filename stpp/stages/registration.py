"""Registration of a system's models in MLflow: with a model card, and as models that load if params.yaml says so."""

from functools import partial
from pathlib import Path

from stpp.deploy.card import metrics_table, model_card, plain
from stpp.deploy.example import example_image
from stpp.models.metadata import read_metadata
from stpp.params.models import Params
from stpp.run.resume import root
from stpp.store.files import StppError, read_csv
from stpp.store.records import EvaluationJson, MetricsJson, read
from stpp.tracking.champion import register
from stpp.tracking.models import Checkpoint
from stpp.tracking.package import package


def register_model(
    run_json: Path, dataset: str, checkpoint: Checkpoint, name: str, evaluation: Path, p: Params
) -> None:
    """Register the model of a training as a version of the data set's registered model.

    dataset: the data set's name. name: the model's name in the evaluation. If `runtime.register` is pyfunc, MLflow gets
    a copy of the checkpoint with the code that serves it. A checkpoint that cannot be read is registered as a link,
    without a card, and the reason is printed.
    """
    card, write = "", None
    try:
        about = read_metadata(checkpoint.file)
        title = f"{dataset}: {checkpoint.name}"
        card = model_card(about, title, _data(dataset, evaluation), _metrics(name, evaluation))
        if p.runtime.register == "pyfunc":
            example = example_image(about.reading)
            write = partial(package, checkpoint.file, about.classes, str(about.start), card, example)
    except StppError as error:
        print(f"registered without a model card, and not to be loaded: {error}")
    register(run_json, dataset, checkpoint, root(), card, write)


def _data(dataset: str, evaluation: Path) -> list[str]:
    """Return lines on the data of a system: the digests of data and split, and the evaluated sets."""
    about = read(evaluation / "run.json", EvaluationJson)
    sets = [f"- {subset}: {count} images, digest {about['lists'][subset]}" for subset, count in about["images"].items()]
    digests = [f"- data set: {plain(dataset)}, digest {about.get('stpp.data.digest', '?')}"]
    digests += [f"- split: digest {about.get('stpp.split.digest', '?')}"]
    return [*digests, *sets, "", "`stpp audit` traces the model to every image, and checks these digests."]


def _metrics(name: str, evaluation: Path) -> list[str]:
    """Return a table of a model's mIoU, and of its IoU by class, on every evaluated set."""
    rows: dict[str, dict[str, float]] = {"mIoU": {}}
    scores = read(evaluation / "metrics.json", MetricsJson)
    for row in read_csv(evaluation / "per_class.csv", ("set", "model", "class", "iou")):
        if row["model"] == name:
            rows["mIoU"][row["set"]] = scores[row["set"]][name]["miou"]
            rows.setdefault(f"IoU of {row['class']}", {})[row["set"]] = float(row["iou"])
    how = read(evaluation / "run.json", EvaluationJson)["evaluation"]
    return [f"In %, predicted at: {how}.", "", *metrics_table(rows)]
