"""A pytest plugin: what kernels choose by the processor they choose as on one with AVX2 only."""

from llvmlite import binding

_HIDDEN = ("avx512", "amx", "avxvnni", "avx10")
_features = dict(binding.get_host_cpu_features())
for name in _features:
    if name.startswith(_HIDDEN):
        _features[name] = False
binding.get_host_cpu_features = lambda: _features
