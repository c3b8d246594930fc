"""All mutations, by name."""

from tokenreel.tools.mutate import engine_mutations, memory_mutations, scheduler_mutations
from tokenreel.tools.mutate.mutation import Mutation

MUTATIONS: dict[str, Mutation] = {
    mutation.name: mutation
    for area in (scheduler_mutations, memory_mutations, engine_mutations)
    for mutation in area.MUTATIONS
}
