"""What a step message that makes no sense raises. Here, where Numba is not imported: it asks for
its folder once, which the worker has to choose before."""


class ImpossibleStep(ValueError):
    """A step message that no engine core can have meant; nothing of it was carried out."""
