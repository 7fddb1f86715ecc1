"""Triton's interpreter, in a third of its time: what it does again and again for nothing is left out."""

import dataclasses


def make_fast():
    """All of these; its answers are the same."""
    patch_once()
    leave_overflows_unchecked()
    keep_equal_shapes()
    remember_types()
    remember_shapes()


def patch_once():
    """While a kernel is interpreted, `triton.language` is patched once for each module of kernels, not for each call.

    The interpreter does so for every call of a function within a kernel as well, which takes half of all its time. What
    it patches goes by the globals of the function, and stays until the kernel is through.
    """
    from triton.runtime import interpreter

    patch, patched = interpreter._patch_lang, set()

    def patch_unless_patched(function):
        if id(function.__globals__) in patched:
            return interpreter._LangPatchScope()
        scope = patch(function)
        patched.add(id(function.__globals__))
        restore = scope.restore

        def restored():
            patched.clear()
            restore()

        scope.restore = restored
        return scope

    interpreter._patch_lang = patch_unless_patched


def leave_overflows_unchecked():
    """Integers of 32 bits are computed in 64 bits as well, for an assertion that stands for nothing unless `debug`."""
    from triton.runtime.interpreter import interpreter_builder

    options = interpreter_builder.options
    assert not options.debug
    interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)


def keep_equal_shapes():
    """Two blocks of one shape need not be compared axis by axis."""
    from triton.language.semantic import TritonSemantic

    broadcast = TritonSemantic.broadcast_impl_value

    def broadcast_unless_equal(self, lhs, rhs):
        if lhs.type.is_block() and rhs.type.is_block() and lhs.handle.data.shape == rhs.handle.data.shape:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    TritonSemantic.broadcast_impl_value = broadcast_unless_equal


def remember_types():
    """What a type of blocks is made of, and which of numpy's types stands for one, is found out once."""
    from triton.language import block_type
    from triton.runtime import interpreter

    make, blocks = block_type.__init__, {}
    of_numpy, found = interpreter._get_np_dtype, {}

    def make_once(self, element_ty, shape):
        key = (element_ty.name, *shape)
        if key not in blocks:
            make(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        vars(self).update(blocks[key])

    def of_numpy_once(dtype):
        if dtype.name not in found:
            found[dtype.name] = of_numpy(dtype)
        return found[dtype.name]

    block_type.__init__ = make_once
    interpreter._get_np_dtype = of_numpy_once


def remember_shapes():
    """Tensors of one shape share it, and the number of their elements."""
    from triton.language import tensor

    make, made = tensor.__init__, {}

    def make_once(self, handle, type):
        shape = tuple(type.shape) if type.is_block() else ()
        if shape not in made:
            make(self, handle, type)
            made[shape] = self.shape, self.numel
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = made[shape]

    tensor.__init__ = make_once
