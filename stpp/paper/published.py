"""The paper's tables and one beyond it: their settings, their systems, and the published mIoU (on val, in %).

A setting is a data set, a split and a network. A system is a method that is run on a setting. The numbers are those of
the paper's Tables 1 to 6 and Appendix B, and of later papers (`beyond-1`). A cell without a published number has none
here.
"""

from dataclasses import dataclass
from typing import Any

from stpp.ingest.published import LABELED, lists_folder
from stpp.paper.systems import ABLATIONS
from stpp.report.labels import LABELS
from stpp.store.files import StppError

NETWORKS = {
    "pspnet-resnet50": "PSPNet, ResNet-50",
    "deeplabv3plus-resnet50": "DeepLabv3+, ResNet-50",
    "deeplabv2-resnet101": "DeepLabv2, ResNet-101",
    "deeplabv3plus-resnet101": "DeepLabv3+, ResNet-101",
    "dpt-vit_small_patch14_dinov2": "DPT, DINOv2-S",
    "dpt-vit_base_patch14_dinov2": "DPT, DINOv2-B",
}
"""Display name of each network with its backbone."""
COCO = "deeplabv2_resnet101_coco.safetensors"
"""File in weights/ with the MS COCO weights that DeepLabv2 starts from. `stpp weights import` writes it."""


@dataclass(frozen=True)
class Setting:
    """A setting of the paper: a data set, the labelled part of it, and a network."""

    data: str
    labels: str
    network: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.labels}-{self.network}"

    @property
    def column(self) -> str:
        """The labelled share with the number of labelled images, such as `1/8 (1323)`, or that number alone."""
        count = LABELED[self.data][self.labels]
        return f"{self.labels.replace('_', '/')} ({count})" if "_" in self.labels else str(count)


@dataclass(frozen=True)
class Table:
    """A table of the paper. A row is a network and a system; a column is the labelled part of a setting."""

    title: str
    settings: tuple[Setting, ...]
    systems: tuple[str, ...]
    """Names of models, as they are passed to `stpp evaluate`."""
    cells: frozenset[tuple[str, str]]
    """Names of the setting and system of every cell, with a number or without."""
    numbers: dict[tuple[str, str], float]
    """mIoU in % by cell."""


def _table(
    title: str, data: str, labels: tuple[str, ...], rows: dict[str, dict[str, tuple[float, ...] | None]]
) -> Table:
    """Return a table from its rows.

    rows: by network and system, one number for each of `labels`, or None if none are published.
    """
    settings = tuple(Setting(data, one, network) for network in rows for one in labels)
    cells = {
        (Setting(data, one, network).name, system): value
        for network, systems in rows.items()
        for system, values in systems.items()
        for one, value in zip(labels, values or [None] * len(labels), strict=True)
    }
    systems = tuple(dict.fromkeys(system for row in rows.values() for system in row))
    numbers = {cell: value for cell, value in cells.items() if value is not None}
    return Table(title, settings, systems, frozenset(cells), numbers)


PARTS = ("1_16", "1_8", "1_4")
SMALL = ("92", "183", "366", "732", "1464")
AUGMENTED = "Pascal VOC 2012, augmented set"
ST_50, STPP_50, SUPONLY_50 = (71.6, 73.3, 75.0), (72.6, 74.4, 75.4), (64.8, 68.3, 70.5)
RESNET_101: dict[str, tuple[float, ...] | None] = {
    "suponly": (50.7, 59.1, 65.0, 70.6, 74.1),
    "st": (61.3, 68.2, 73.5, 76.3, 78.9),
    "stpp": (65.2, 71.0, 74.6, 77.3, 79.1),
}
OFFLINE, LATER = dict.fromkeys(("st", "stpp")), dict.fromkeys(("fixmatch", "unimatch", "unimatch_v2"))
"""Systems without published numbers on a network."""

TABLES: dict[str, Table] = {
    "table-1": _table(
        f"Table 1: {AUGMENTED}",
        "pascal",
        PARTS,
        {
            "pspnet-resnet50": {
                "suponly": (63.8, 67.2, 69.6),
                "st": (69.1, 73.0, 73.2),
                "stpp": (69.9, 73.2, 73.4),
            },
            "deeplabv3plus-resnet50": {"suponly": SUPONLY_50, "st": ST_50, "stpp": STPP_50},
            "deeplabv2-resnet101": {
                "suponly": (64.3, 67.6, 69.5),
                "st": (68.6, 71.6, 72.5),
                "stpp": (69.3, 72.0, 72.8),
            },
            "deeplabv3plus-resnet101": {
                "suponly": (66.3, 70.6, 73.1),
                "st": (72.9, 75.7, 76.4),
                "stpp": (74.5, 76.3, 76.6),
            },
        },
    ),
    "table-2": _table(
        "Table 2: Pascal VOC 2012, original set",
        "pascal",
        SMALL,
        {"deeplabv3plus-resnet101": RESNET_101},
    ),
    "table-3": _table(
        "Table 3: Cityscapes",
        "cityscapes",
        ("1_30", "1_8", "1_4"),
        {
            "deeplabv3plus-resnet50": {
                "suponly": (55.1, 65.8, 68.4),
                "st": (60.9, 71.6, 73.4),
                "stpp": (61.4, 72.7, 73.8),
            }
        },
    ),
    "table-4": _table(
        f"Table 4: {AUGMENTED}, selective re-training",
        "pascal",
        PARTS,
        {"deeplabv3plus-resnet50": {"st": ST_50, "blind": (71.3, 73.9, 74.7), "stpp": STPP_50}},
    ),
    "table-5": _table(
        f"Table 5: {AUGMENTED}, online and offline pseudo labels",
        "pascal",
        PARTS,
        {
            "pspnet-resnet50": {
                "suponly": (63.8, 67.2, 69.6),
                "online": (68.6, 69.0, 70.7),
                "st": (69.1, 73.0, 73.2),
            },
            "deeplabv3plus-resnet50": {"suponly": SUPONLY_50, "online": (67.7, 71.0, 71.9), "st": ST_50},
        },
    ),
    "table-6": _table(
        f"Table 6: {AUGMENTED}, image-level and pixel-level selection",
        "pascal",
        PARTS,
        {
            "deeplabv3plus-resnet50": {
                "st": ST_50,
                "pixel_1": (71.3, 73.5, 74.9),
                "pixel_2": (71.3, 73.8, 74.7),
                "stpp": STPP_50,
            }
        },
    ),
    "appendix-b": _table(
        "Appendix B: Pascal VOC 2012, original set, iterative re-training",
        "pascal",
        ("92", "366"),
        {"deeplabv3plus-resnet101": {"stpp": (65.2, 74.6), "round_1": (68.3, 75.2)}},
    ),
    "figure-3": _table(
        f"Figure 3: {AUGMENTED}, strong augmentation, all of it and in parts (the paper plots it)",
        "pascal",
        PARTS,
        {
            "deeplabv3plus-resnet50": {
                "plain": None,
                "st": None,
                **dict.fromkeys(ABLATIONS),
            }
        },
    ),
    # Numbers of UniMatch (Yang et al., CVPR 2023) and UniMatch V2 (Yang et al., TPAMI 2025); V2's, and all with DINOv2,
    # are those of the best epoch on val.
    "beyond-1": _table(
        "Beyond the paper 1: Pascal VOC 2012, original set, later systems and backbones",
        "pascal",
        SMALL,
        {
            "deeplabv3plus-resnet101": RESNET_101 | LATER | {"unimatch": (75.2, 77.2, 78.8, 79.9, 81.2)},
            "dpt-vit_small_patch14_dinov2": {
                "suponly": (67.0, 75.6, 81.8, 83.7, 85.6),
                **OFFLINE,
                **LATER,
                "unimatch_v2": (79.0, 85.5, 85.9, 86.7, 87.8),
            },
            "dpt-vit_base_patch14_dinov2": {
                "suponly": (76.9, 82.1, 85.3, 87.2, 88.3),
                **OFFLINE,
                **LATER,
                "fixmatch": (83.8, 87.4, 88.2, 89.9, 90.2),
                "unimatch_v2": (86.3, 87.9, 88.9, 90.0, 90.8),
            },
        },
    ),
}

SETTINGS: dict[str, Setting] = {setting.name: setting for table in TABLES.values() for setting in table.settings}
"""Every setting of the tables, by name."""


def table(name: str) -> Table:
    """Return a table by name. Raises StppError that names all tables if there is no such table."""
    if name not in TABLES:
        raise StppError(f"{name}: no such table; choose one of {', '.join(TABLES)}")
    return TABLES[name]


def cells(setting: Setting) -> list[str]:
    """Return the cells with a published number for a setting, such as `Table 1, ST: 71.6`."""
    return [
        f"{one.title.partition(':')[0]}, {LABELS.get(system, system)}: {value}"
        for one in TABLES.values()
        for (of, system), value in one.numbers.items()
        if of == setting.name
    ]


def params_of(setting: Setting) -> dict[str, Any]:
    """Return the parameters of a published setting by section; the parameters not named have their defaults.

    They follow the paper (4.1), and the authors' code where the paper leaves them open. Those of DINOv2 follow UniMatch
    V2, but with 16 images per batch in all systems.
    """
    network, backbone = setting.network.split("-")
    pascal, dinov2 = setting.data == "pascal", "dinov2" in backbone
    train: dict[str, Any] = {"epochs": 80 if pascal else 240, "lr": 0.001 if pascal else 0.004}
    if dinov2:
        train = {"epochs": 60, "optimizer": "adamw", "lr": 5e-6, "head_lr_factor": 40.0, "weight_decay": 0.01}
    base, crop = (500, 518) if dinov2 else (400, 321) if pascal else (2048, 721)
    lists = lists_folder(setting.data, setting.labels)
    return {
        "data": {"name": setting.data, "kind": setting.data, "root": f"data/{setting.data}"},
        "split": {
            "name": lists.replace("/", "-"),
            "labeled": {"list": f"{lists}/labeled.txt"},
            "unlabeled": {"list": f"{lists}/unlabeled.txt"},
            "val": {"list": f"{lists}/val.txt"},
        },
        "model": {
            "network": network,
            "backbone": backbone,
            "weights": "lvd142m" if dinov2 else COCO if network == "deeplabv2" else "IMAGENET1K_V1",
            "output_stride": 8,
        },
        "train": train | {"batch_size": 16, "checkpoints": 3},
        "augment": {"weak": {"base": base, "crop": crop}},
        "score": {"batch_size": 1, "shards": 64},
        "label": {"batch_size": 1, "shards": 64},
        "evaluate": {"batch_size": 1 if pascal else 4},
        "runtime": {"workers": 8},
    }
