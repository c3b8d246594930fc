"""How functions are compiled: what Python calls, once and kept on disk; its parts with it.

Numba makes machine code of every function, and again of each function that calls it. Here a part
stays what LLVM reads until the function that Python calls is complete: only that one is optimized
and becomes machine code, with all of its parts in it. That is a third of the compilation.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import config, njit, typeof
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.event import Event, Listener, install_listener
from numba.core.sigutils import normalize_signature
from numba.core.typed_passes import (
    AnnotateTypes,
    InlineOverloads,
    NativeLowering,
    NopythonRewrites,
)
from numba.core.untyped_passes import (
    FindLiterallyCalls,
    InlineClosureLikes,
    InlineInlinables,
    LiteralPropagationSubPipelinePass,
    LiteralUnroll,
    MakeFunctionToJitFunction,
    RewriteDynamicRaises,
    WithLifting,
)

_DIGEST_BYTES = 16
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiles `function`, which may be a `part`, on its first call, to run without the GIL; the
    result is kept in $NUMBA_CACHE_DIR, which must be another one for other versions of any kernel.

    No fastmath: it would let LLVM change the order of additions. No counting of references: nothing
    is allocated, and the caller keeps what it hands over; it was a tenth of the compilation.
    """
    source = getattr(function, "py_func", function)
    decorated: Any = njit(pipeline_class=_Compiler, **_OPTIONS)(source)
    if config.CACHE_DIR:
        decorated._cache = _Kept(source)
    return cast(Function, decorated)


def part(function: Function) -> Function:
    """Compiles `function` into those compiled functions that call it; Python cannot."""
    decorated: Function = njit(**PART)(function)
    return decorated


def inlined(function: Function) -> Function:
    """A `part` that is copied to where it is called: passing arrays costs some 20 ns a call."""
    decorated: Function = njit(**INLINED)(function)
    return decorated


class Specialized:
    """A compiled function for arguments whose types never change. Numba looks at the types of all
    arrays at each call, which takes longer than to hand them over: here it does at the first.

    Arguments of other types than the first ones would be taken for those: memory would be read
    and written as it should not. Tests have calls looked at.
    """

    checks_every = 0
    """So many calls' types are looked at once; 0: never again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """function: of `compiled`."""
        self._function: Any = function
        self._types: tuple[Any, ...] = ()
        self._num_calls = 0
        self._entry_point: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Raises TypeError if types are checked and have changed."""
        if self._entry_point is None:
            self._entry_point = self.compile(*arguments)
        elif self.checks_every:
            self._check(arguments)
        return self._entry_point(*arguments)

    def compile(self, *arguments: Any) -> Callable[..., Any]:
        """For arguments like these, without a call."""
        self._types = tuple(map(typeof, arguments))
        entry_point: Callable[..., Any] = self._function.compile(self._types)
        return entry_point

    def _check(self, arguments: tuple[Any, ...]) -> None:
        self._num_calls += 1
        if self._num_calls % self.checks_every == 0:
            types = tuple(map(typeof, arguments))
            if types != self._types:
                raise TypeError(f"{self._function.__name__} was specialized for {self._types}")


class _Kept(FunctionCache):
    """Results on disk. A damaged one, as a power cut may leave it, is as good as none, and so is
    one of other types: two processes that wrote at once may have mixed their files up."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            kept = super().load_overload(sig, target_context)
            if kept is None or tuple(kept.signature.args) == tuple(normalize_signature(sig)[0]):
                return kept
        except Exception:  # Reading something that was not written so may raise any.
            pass
        with suppress(OSError):
            self.flush()
        return None


class _CheckedFile(IndexDataCacheFile):
    """A digest behind each result: damaged machine code would not raise, but end the process."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(content + _digest(content))

    def _load_data(self, name: str) -> Any:
        stored = Path(self._data_path(name)).read_bytes()
        if _digest(stored[:-_DIGEST_BYTES]) != stored[-_DIGEST_BYTES:]:
            raise ValueError(f"{name} is damaged")
        return super()._load_data(name)  # What is behind the result is not looked at.


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


@contextmanager
def compilation_told(tell: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Calls `tell`, once, if anything is compiled meanwhile that was not kept on disk. Gives what
    to call if it is known otherwise."""
    teller = _Teller(tell)
    with install_listener("numba:compile", teller):
        yield teller.tell_once


class _Teller(Listener):
    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._has_told = False

    def tell_once(self) -> None:
        if not self._has_told:
            self._has_told = True
            self._tell()

    def on_start(self, event: Event) -> None:
        self.tell_once()

    def on_end(self, event: Event) -> None:
        pass


_UNUSED: frozenset[type] = frozenset(
    {
        WithLifting,
        InlineClosureLikes,
        MakeFunctionToJitFunction,
        InlineInlinables,
        InlineOverloads,
        FindLiterallyCalls,
        LiteralUnroll,
        LiteralPropagationSubPipelinePass,
        RewriteDynamicRaises,
        NopythonRewrites,
    }
)
"""Passes for what no kernel has: contexts, closures, callees that Numba itself inlines, literals as
types, composed exceptions, arithmetic with whole arrays. They took a twelfth of the compilation."""


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [entry for entry in passes.passes if entry[0] not in _UNUSED]
        self._add_passes(passes)
        passes.finalize()
        return [passes]

    def _add_passes(self, passes: Any) -> None:
        pass


class _PartLibrary(JITCodeLibrary):
    """LLVM's reading of a part, to be linked into what calls it: neither optimized nor loaded."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=False, analysis_only=False)
class _Begin(LoweringPass):
    _name = "begin_part"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        name = state.func_id.func_qualname
        state.library = _PartLibrary(state.targetctx.codegen(), name)
        # Its function is not looked for in machine code, which there is none of.
        state.flags.no_compile = True
        return True


@register_pass(mutates_CFG=False, analysis_only=False)
class _Announce(LoweringPass):
    """Numba finds the callee of compiled code by the object that Python would call, and wants a
    builtin. This one, of a string made for the purpose, is like no other; called by mistake it
    raises TypeError."""

    _name = "announce_part"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        name = f"part {state.func_id.func_qualname}".join
        lowered = state["cr"]
        state["cr"] = lowered._replace(cfunc=name)
        state.targetctx.insert_user_function(name, lowered.fndesc, [state.library])
        return True


class _PartCompiler(_Compiler):
    def _add_passes(self, passes: Any) -> None:
        passes.add_pass_after(_Begin, AnnotateTypes)
        passes.add_pass_after(_Announce, NativeLowering)


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
PART: dict[str, Any] = {
    **_OPTIONS,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _PartCompiler,
}
"""Also for `overload` and `register_jitable`."""
INLINED: dict[str, Any] = {"forceinline": True, **PART}
"""Alike, for what is copied to where it is called."""
