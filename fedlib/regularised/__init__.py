"""Algorithms that make local learning more general instead of holding it back (Mendieta et al. 2022), and the control
that clips as they do: strategies as those in :mod:`fedlib.algorithms`, one in each file.
"""
