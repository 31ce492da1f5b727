"""Seeds of random numbers, as users give them: 0 to `LAST_SEED`, each of which is another one.

A larger number would be folded onto a small one by 64-bit generators, and JSON readers that have
only floating-point numbers would change it.
"""

__all__ = ["LAST_SEED"]

LAST_SEED = 2**53 - 1
