"""Picture priors for lifting, behind one protocol; `make_prior` makes the one that settings name."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ..config_json import did_you_mean
from .protocol import Prior, PriorFacts, Subject, Views, linear_alphas, view_texts, view_words

__all__ = [
    "PRIOR_NAMES",
    "Prior",
    "PriorFacts",
    "PriorSettings",
    "Subject",
    "Views",
    "linear_alphas",
    "make_prior",
    "view_texts",
    "view_words",
]

PRIOR_NAMES = ("tiny", "sd", "view", "empirical", "null")
"""Priors that can be named; an analytic one is made in code only."""


@dataclass(frozen=True)
class PriorSettings:
    """Which prior, and how it is loaded.

    Attributes:
        prior: One of `PRIOR_NAMES`.
        model: Hub id, local folder or file of its weights; empty takes the prior's default.
        revision: Revision of a hub model; empty takes the newest.
        offline: Look for hub models on this machine only.
        half_precision: Keep the weights of hub models in 16 bits.
        low_memory: Trade time for memory.
        device: Where it computes.
        embedding: File of a word learned for Stable Diffusion; empty for none.
    """

    prior: str = "tiny"
    model: str = ""
    revision: str = ""
    offline: bool = False
    half_precision: bool = True
    low_memory: bool = False
    device: str = "cpu"
    embedding: str = ""


def make_prior(settings: PriorSettings) -> Prior:
    """Load a prior.

    Raises:
        UserError: for an unknown name, and where weights or packages are missing; never falls back to other weights.
    """
    if settings.prior == "null":
        from .null import NullPrior

        return NullPrior()
    if settings.prior == "tiny":
        from .tiny import TinyPrior

        return TinyPrior.load(settings)
    if settings.prior == "empirical":
        from .empirical import EmpiricalPrior

        return EmpiricalPrior.load(settings)
    if settings.prior == "sd":
        from .stable_diffusion import StableDiffusionPrior

        return StableDiffusionPrior.load(settings)
    if settings.prior == "view":
        from .view_conditioned import ViewPrior

        return ViewPrior.load(settings)
    hint = did_you_mean(settings.prior, PRIOR_NAMES)
    raise UserError(f"unknown prior '{settings.prior}'", where="--prior", fix=hint or ", ".join(PRIOR_NAMES))
