"""Whether a conformer is a rod, a disc or a sphere: ratios of its principal moments of inertia.

`npr1 = I_1 / I_3` and `npr2 = I_2 / I_3`, with the moments in rising order, hydrogens counted:
(0, 1) is a rod, (0.5, 0.5) a disc, (1, 1) a sphere.

References:
    Sauer, Schwarz, J. Chem. Inf. Comput. Sci. 43, 987 (2003), doi:10.1021/ci025599w.
"""

from functools import partial

from rdkit.Chem import Mol
from rdkit.Chem import rdMolDescriptors as rd

from molflowctl.properties.energies.geometry import checked_positions
from molflowctl.properties.registry import PropertyError, register

__all__ = []


def _ratio(mol: Mol, numerator: int) -> float:
    checked_positions(mol)
    moments = (rd.CalcPMI1(mol), rd.CalcPMI2(mol), rd.CalcPMI3(mol))
    if moments[2] <= 0:
        raise PropertyError("one atom has no moments of inertia")
    return moments[numerator] / moments[2]


for numerator, description in enumerate(
    (
        "smallest over largest moment of inertia: 0 a rod, 0.5 a disc, 1 a sphere",
        "middle over largest moment of inertia: 1 a rod or a sphere, 0.5 a disc",
    )
):
    register(f"npr{numerator + 1}", unit="", version=1, bounds=(0.0, 1.0), description=description)(
        partial(_ratio, numerator=numerator)
    )
