"""Renamings between naming schemes.

Rules are applied in this order, each to the keys that the one before has left: the user's own (custom), transformers,
legacy, volta, prefix. Within a rule all names are rewritten at once, from the keys as the rule found them.
"""

from .applying import Outcome, apply_rules
from .custom import CustomRules, Renaming, parse_map, read_rules_file
from .rewriting import UNPAIRED, Side
from .rows import RowsRule, only_rows_differ
from .selection import NAME_RULES, RULES, Selection, parse_rules

__all__ = [
    "NAME_RULES",
    "RULES",
    "UNPAIRED",
    "CustomRules",
    "Outcome",
    "Renaming",
    "RowsRule",
    "Selection",
    "Side",
    "apply_rules",
    "only_rows_differ",
    "parse_map",
    "parse_rules",
    "read_rules_file",
]
