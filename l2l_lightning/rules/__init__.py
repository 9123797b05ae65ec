"""Update rules, learned and hand-made."""

from l2l_lightning.core.unroll import RuleInput
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.handmade import SGD, Adagrad, Adam, Adamax, HandmadeRule, Momentum, Nesterov, RMSprop
from l2l_lightning.rules.partitioned import PartitionedRule, Route
from l2l_lightning.rules.preprocessing import Identity, LogAndSign, Preprocessing
from l2l_lightning.rules.recurrent import CoordinatewiseGRU, CoordinatewiseLSTM, CoordinatewiseRNN

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Adamax",
    "CoordinatewiseGRU",
    "CoordinatewiseLSTM",
    "CoordinatewiseRNN",
    "HandmadeRule",
    "Identity",
    "LogAndSign",
    "Momentum",
    "Nesterov",
    "PartitionedRule",
    "Preprocessing",
    "RMSprop",
    "Route",
    "RuleInput",
    "UpdateRule",
]
