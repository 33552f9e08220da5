"""Test beds and trials of the experiment on the semantic-level term: what is trained, and what it is compared with.

A trial is a variant and factors, as in "ass+labelled+semantic=0.3": a name of `FACTORS`, or a weight, `global=W` or
`semantic=W`.
"""

from typing import NamedTuple

from configs._variants import VARIANTS

CHOOSE, JUDGE = "choose", "judge"


class Bed(NamedTuple):
    """A source, a target and a network.

    Attributes:
      config: the file.
      settings: of both phases, and of all trials that do not set the same.
      choosing: further settings while trials are chosen: other scenes, images or labels than those of judged runs.
      count: number of labelled target images by default.
      judged: number of seeds on which trials are judged.
      baseline: trial that trials without a teacher are compared with; its weight was chosen first.
      baseline_plus: the same of trials with a teacher.
    """

    config: str
    settings: tuple[str, ...]
    choosing: tuple[str, ...]
    count: int
    judged: int
    baseline: str
    baseline_plus: str


BEDS = {
    "streets": Bed("configs/toy.py", (), ("data.toy.seed=100",), 8, 10, "adaptsegnet", "adaptsegnet_plus"),
    "label_shift": Bed(
        "configs/toy.py",
        ("data.toy.label_shift=1.0",),
        ("data.toy.seed=100",),
        8,
        10,
        "adaptsegnet+global=0.0003",
        "adaptsegnet_plus+global=0.0003",
    ),
    "streets_to_camvid": Bed(
        "configs/streets_to_camvid.py",
        (),
        ("data.target=camvid_val",),
        10,
        5,
        "adaptsegnet+global=0.003",
        "adaptsegnet_plus",
    ),
    "day_to_dusk": Bed("configs/camvid.py", (), ("data.held_out=20",), 8, 5, "adaptsegnet", "adaptsegnet_plus"),
}

FACTORS = {
    "labelled": ("loss.semantic_unlabelled=False",),
    "logits": ("loss.semantic_input=logits",),
    "binary": ("loss.semantic_outputs=binary",),
    "class_domain": ("loss.semantic_outputs=class_domain",),
    "fast": ("discriminator.semantic_learning_rate=1e-3",),
}
_WEIGHTS = {"global": "loss.global_weight", "semantic": "loss.semantic_weight"}


def baseline_of(trial: str, bed: str) -> str:
    """Returns the trial that another is compared with on a test bed."""
    variant = trial.partition("+")[0]
    return BEDS[bed].baseline_plus if VARIANTS[variant].teacher else BEDS[bed].baseline


def parse_trial(text: str) -> tuple[str, tuple[str, ...]]:
    """Returns variant and settings of a trial such as "ass+labelled+semantic=0.3".

    Raises:
      ValueError: a part of the name is unknown.
    """
    variant, *factors = text.split("+")
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} in trial {text!r}; valid: {', '.join(VARIANTS)}")
    settings: list[str] = []
    for factor in factors:
        name, _, weight = factor.partition("=")
        if weight and name in _WEIGHTS:
            settings.append(f"{_WEIGHTS[name]}={float(weight)}")
        elif factor in FACTORS:
            settings.extend(FACTORS[factor])
        else:
            valid = ", ".join([*FACTORS, *(f"{name}=WEIGHT" for name in _WEIGHTS)])
            raise ValueError(f"unknown factor {factor!r} in trial {text!r}; valid: {valid}")
    return variant, tuple(settings)
