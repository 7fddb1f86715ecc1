"""Triton's interpreter, as fast as tests need it."""


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
