"""Which methods a comparison runs, with which of their options.

>>> [(one.method.name, one.variant) for one in choose_variants("bbt", [TUNED])]
[('zero-shot', 'tuned'), ('bbt', 'tuned')]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.methods.method import PUBLISHED, Method
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.errors import UserError

TUNED, TRIALS = "tuned", "trials"
VARIANTS = (TUNED, PUBLISHED, TRIALS)


@dataclass(frozen=True)
class MethodVariant:
    """A method with one choice of its options.

    Attributes:
        method: the method.
        variant: "tuned", "published", "trial-1" and so on.
        options: the options of that choice.
    """

    method: Method
    variant: str
    options: Mapping[str, Any]

    @property
    def has_own_code(self) -> bool:
        """Whether the variant has an implementation of its own."""
        return self.variant == PUBLISHED and self.method.published_start is not None


def choose_variants(methods: str, variants: Sequence[str]) -> list[MethodVariant]:
    """Return what a comparison runs, zero-shot first.

    Args:
        methods: names and groups with commas between; zero-shot is always added.
        variants: which options: some of VARIANTS.

    Raises:
        UserError: a name is unknown.
    """
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        raise UserError(f"variant {unknown[0]!r}: choose among {', '.join(VARIANTS)}")
    found = []
    for name in registry.chosen_names(f"{registry.REFERENCE},{methods}" if methods.strip() else methods):
        method = registry.method(name)
        if TUNED in variants or name == registry.REFERENCE:
            found.append(MethodVariant(method, TUNED, method.tuned))
        if PUBLISHED in variants and method.published:
            found.append(MethodVariant(method, PUBLISHED, method.published))
        if TRIALS in variants:
            found += [MethodVariant(method, f"trial-{n}", options) for n, options in enumerate(method.trials, 1)]
    return found


def check_budgets(variants: Sequence[MethodVariant], config: TuneConfig) -> None:
    """Refuse a query budget that is too small for every method that makes queries.

    If it is too small for some of them only, those fail on their own.

    Raises:
        UserError: with the reason of the first method.
    """
    reasons = []
    priced = [one for one in variants if one.method.makes_queries]
    for one in priced:
        try:
            one.method.check(config, one.options)
        except UserError as error:
            reasons.append(f"{one.method.name} ({one.variant}): {error}")
    if reasons and len(reasons) == len(priced):
        raise UserError(reasons[0])
