"""Rewards and filters: what a molecule is worth, written as one expression.

    dipole_debye                                    a property
    similarity("CC(=O)Oc1ccccc1C(=O)O")             a property that is made from arguments
    -sa_score + 2 * qed                             arithmetic of values
    sigmoid(qed, 0.6, 0.1)                          a desirability, 0 to 1, of any value
    product(qed, range(logp, 1, 3, 0.5))            also geometric_mean, mean (with weights=[2, 1]),
                                                    min, max
    qed > 0.7 and not brenk > 0                     conditions, 1 where they hold, else 0
    qed + where(largest_ring > 6, -1, 0)            a penalty under a condition

`molflowctl rewards` lists what there is, with arguments, units and curves. The text is parsed by a
grammar of its own (`molflowctl.io.language`) and never evaluated as Python; every error shows the
place. `where` is a function, since an expression has no statements, and a reward needs a value on
either side of a condition.

These are rewards of whole molecules, by the oracle. A reward of the continuous states that a flow
moves, perhaps with a gradient, is `molflowctl.control.Reward`, which may call one of these.

A molecule without a property has no reward: NaN, with the property's reason. It is never worth
zero, since a failed calculation says nothing about the molecule.

References:
    Derringer, Suich, Simultaneous optimization of several response variables, J. Quality
    Technology 12, 214 (1980), doi:10.1080/00224065.1980.11980968: D = (d_1 d_2 ... d_m)^(1/m).
    Derringer, A balancing act: optimizing a product's properties, Quality Progress 27, 51 (1994):
    weights, D = (d_1^w_1 ... d_m^w_m)^(1 / sum w).
    Hopkins, Groom, Alex, Ligand efficiency, Drug Discov. Today 9, 430 (2004),
    doi:10.1016/S1359-6446(04)03069-7: the binding energy over the number of heavy atoms.
"""

from molflowctl.properties.rewards.reward import Objective, PropertyReward, parse_reward

__all__ = ["Objective", "PropertyReward", "parse_reward"]
