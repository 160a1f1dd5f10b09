"""Every knob of an experiment, with its type, its default, its unit and what it does.

The YAML files under conf/ only fill these models in, and code outside conf/ only sees them
filled. Unknown keys and wrong values are refused.

Lengths are in tokens, durations in seconds, sizes in prompts or rollouts as the unit says.
"""

from conf.schema.data import Data, Segmentation, Source
from conf.schema.evaluation import Evaluation
from conf.schema.experiment import Experiment, Model
from conf.schema.gates import GATES, Gates
from conf.schema.hardware import Hardware
from conf.schema.knobs import NAME, SEEDS, Knobs, knob
from conf.schema.method import Method
from conf.schema.reward import Reward
from conf.schema.selection import Selection
from conf.schema.stage import Stage
from conf.schema.transition import Alarm, Condition, Transition

__all__ = [
    "GATES",
    "NAME",
    "SEEDS",
    "Alarm",
    "Condition",
    "Data",
    "Evaluation",
    "Experiment",
    "Gates",
    "Hardware",
    "Knobs",
    "Method",
    "Model",
    "Reward",
    "Segmentation",
    "Selection",
    "Source",
    "Stage",
    "Transition",
    "knob",
]
