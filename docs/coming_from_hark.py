"""A household with five equally spaced log incomes, drawn anew each year, by HARK."""

import numpy as np
from HARK.ConsumptionSaving.ConsIndShockModel import IndShockConsumerType
from HARK.distributions import DiscreteDistributionLabeled

income = np.exp(np.linspace(-0.2, 0.2, 5))
chances = np.array([1, 4, 6, 4, 1]) / 16
household = IndShockConsumerType(
    cycles=0, CRRA=2.0, DiscFac=0.96, Rfree=[1.03], LivPrb=[1.0], PermGroFac=[1.0],
    BoroCnstArt=0.0, aXtraMin=1e-3, aXtraMax=50.0, aXtraCount=200, tolerance=1e-10,
)  # fmt: skip
household.IncShkDstn = [
    DiscreteDistributionLabeled(
        chances, atoms=[np.ones(5), income], var_names=["PermShk", "TranShk"]
    )
]
household.solve()
cash = 1.03 * np.array([0.0, 1.0, 5.0]) + 1.0  # at the middle income
print(*household.solution[0].cFunc(cash).round(3))
