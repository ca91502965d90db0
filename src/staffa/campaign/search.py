"""Section `search`: the next trials are asked for, not listed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from staffa.campaign.fields import Count, Real, Section


class StrategyConfig(BaseModel):
    """Section `search.strategy`: what is asked for next. Every key but `use` is an option of the strategy."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(
        default="explore",
        min_length=1,
        description="A strategy: explore, mixture, sobol, random, optuna, or a plug-in's.",
    )

    @property
    def options(self) -> dict[str, Any]:
        """Every key but `use`."""
        return dict(self.model_extra or {})


class PruneConfig(Section):
    """Section `search.prune`: successive halving. After some segments the worse trials are given up.

    It is asynchronous: a trial is held against those that came as far before it, and waits for nobody.
    """

    keep: Annotated[Real, Field(gt=0, lt=1)] = Field(
        default=0.25, description="Share of the trials that goes on, each time they are compared."
    )
    after: tuple[Count, ...] = Field(
        default=(), description="Segments after which trials are compared: [1, 2, 4]; empty for powers of 1/keep."
    )
    least: Count = Field(default=8, description="Trials that must have come as far before any is given up.")


class SearchConfig(Section):
    """Section `search`: an adaptive search takes the place of the listed points of `space`."""

    space: dict[str, Any] = Field(
        min_length=1,
        description="Ranges of the parameters: {rate: [0.001, 1.0, log], leaps: [1, 32, int], mass: {choice: [a, b]}}.",
    )
    objectives: dict[str, Any] = Field(
        min_length=1,
        description="What is wanted: {bias: {of: bias.mean, target: 0.01, limit: 1.0}}, or in short {loss: minimize}.",
    )
    trials: Count = Field(description="How many trials are asked for at most.")
    strategy: StrategyConfig = Field(
        default=StrategyConfig(), description="What is asked for next: {use: explore}, and its options."
    )
    prune: PruneConfig | None = Field(
        default=None, description="Whether hopeless trials are given up between segments: {keep: 0.25}; null: never."
    )
