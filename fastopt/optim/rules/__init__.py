"""The rules: each is a signature, which is its row of defaults, and the formula its options choose.

`_formula` names one of the kernel's formulas and, slot by slot, the moments it keeps, by torch's
names. The constants of a rule, and the formulas, are the kernel's (`optim` among the compiled files).
A file a family; a new rule is a class in one of them and a name in `fastopt.optim`.
"""

from fastopt.optim.rules.adam import Adam, Adamax, AdamW, NAdam, RAdam
from fastopt.optim.rules.adaptive import Adadelta, Adagrad, RMSprop
from fastopt.optim.rules.momentum import SGD, Lion

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop"]
