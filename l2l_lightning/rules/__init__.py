"""Update rules, learned and hand-made."""

from l2l_lightning.core.rule import RuleInput
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.handmade import SGD, Adagrad, Adam, Adamax, HandmadeRule, Momentum, Nesterov, RMSprop
from l2l_lightning.rules.multiscale_adam import Head, LinearAverage, MultiscaleAdam, SoftmaxMLP, SoftmaxRecurrent
from l2l_lightning.rules.normalized_inputs import KMomentums, KTimesteps, MeanNormalizedGradient
from l2l_lightning.rules.partitioned import PartitionedRule, Route
from l2l_lightning.rules.preprocessing import Identity, LogAndSign, Preprocessing
from l2l_lightning.rules.recurrent import CoordinatewiseGRU, CoordinatewiseLSTM, CoordinatewiseRNN
from l2l_lightning.rules.schedules import Cosine, Schedule
from l2l_lightning.rules.tensors import TensorInput, TensorRule

PARTS = (UpdateRule, Preprocessing, Head, Schedule)  # whose subclasses the description of a trained rule may name

__all__ = [
    "PARTS",
    "SGD",
    "Adagrad",
    "Adam",
    "Adamax",
    "CoordinatewiseGRU",
    "CoordinatewiseLSTM",
    "CoordinatewiseRNN",
    "Cosine",
    "HandmadeRule",
    "Head",
    "Identity",
    "KMomentums",
    "KTimesteps",
    "LinearAverage",
    "LogAndSign",
    "MeanNormalizedGradient",
    "Momentum",
    "MultiscaleAdam",
    "Nesterov",
    "PartitionedRule",
    "Preprocessing",
    "RMSprop",
    "Route",
    "RuleInput",
    "Schedule",
    "SoftmaxMLP",
    "SoftmaxRecurrent",
    "TensorInput",
    "TensorRule",
    "UpdateRule",
]
