"""Does `verify` find every bug of the scheduler? Mutants of the core are made, run and judged.

python -m tokenreel.tools.mutate
"""
