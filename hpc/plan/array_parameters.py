"""Parameters of a bucket that are arrays: their shapes in its model, their defaults, their dims."""

from __future__ import annotations

from dataclasses import replace

from dpsolve.solvers.errors import ModelError, UsageError
from dpsolve.solvers.model.factory_signature import Factory, parameter_shapes, signature
from dpsolve.solvers.parameters.given import check_array

from .design import Bucket, Design


def with_arrays(bucket: Bucket, factory: Factory) -> Bucket:
    """Return a bucket with what its factory says of parameters that are arrays.

    Its sizes decide their shapes; so this is known only when its factory was looked at.

    Raises
    ------
    UsageError
        If an array has another shape than the model has for it.
    """
    sig = signature(factory)
    if not sig.arrays:
        return bucket
    sizes = {name: bucket.sizes.get(name, default) for name, default in sig.sizes.items()}
    shapes = parameter_shapes(factory, sizes)
    fixed = dict(bucket.fixed)
    for name, declared in sig.arrays.items():
        own, shape = declared.named(name), shapes[name]
        if name in bucket.parameters:
            _, values = bucket.parameters[name]
            if values.shape[1:] and values.shape[1:] != shape:
                each = ", ".join(f"{n} of {d}" for n, d in zip(shape, own, strict=True))
                raise UsageError(
                    f"{sig.name}: parameter '{name}' is given as {values.shape[1:]} at each of "
                    f"{len(values)} points, and its shape is {shape}: {each}"
                )
        elif name not in fixed:
            default = declared.default(shape)
            assert default is not None  # one without a default was missed already
            fixed[name] = default
        elif not isinstance(fixed[name], str):  # a checksum, where a store is read back
            try:
                fixed[name] = check_array(sig.name, name, fixed[name], shape, own, False)
            except ModelError as error:
                raise UsageError(str(error)) from None
    return replace(bucket, fixed=fixed, own=sig.array_dims)


def completed(design: Design, factory: Factory) -> Design:
    """Return a design whose buckets have what their factory says of arrays."""
    return Design(tuple(with_arrays(bucket, factory) for bucket in design.buckets))
