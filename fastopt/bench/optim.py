"""One optimizer step, gradients given: tensors of all sizes, 200 small ones, every rule on a large one, options."""

import timeit
from collections.abc import Callable, Iterator

from fastopt import optim
from fastopt._kernels import core
from fastopt.bench._cases import Case, named, random
from fastopt.bench._peers import one_thread_jax

# arrays that a step rewrites; how optax spells the rule
RULES = {
    "Adam": (3, lambda optax: optax.adam(1e-3)),
    "AdamW": (3, lambda optax: optax.adamw(1e-3)),
    "SGD": (2, lambda optax: optax.sgd(1e-3, 0.9)),
    "Adagrad": (2, lambda optax: optax.adagrad(1e-3)),
    "RMSprop": (2, lambda optax: optax.rmsprop(1e-3, 0.99)),
    "Adadelta": (3, lambda optax: optax.adadelta(1e-3)),
    "RAdam": (3, lambda optax: optax.radam(1e-3)),
    "NAdam": (3, lambda optax: optax.nadam(1e-3)),
    "Adamax": (3, lambda optax: optax.adamax(1e-3)),
    "Lion": (2, lambda optax: optax.lion(1e-3)),
}
OPTIONS = {"max_norm": 1.0, "clip_value": 1.0, "check_finite": "raise", "ema_decay": 0.999, "accumulate": 4}


def cases() -> Iterator[Case]:
    for n in (1_000, 10_000, 100_000, 1_000_000):
        yield step_case(f"Adam step(grads), {n}", "Adam", [n], family="Adam step, 1 000 to 1 000 000 parameters")
    few = [1_000] * 200
    yield step_case("Adam step(grads), 200 tensors of 1000", "Adam", few, family="Adam step, 200 tensors of 1 000")
    yield step_case(
        "Adam bound, 200 tensors of 1000", "Adam", few, bound=True, family="Adam step, 200 tensors of 1 000"
    )
    for rule in RULES:
        yield step_case(f"{rule} step(grads), 16000000", rule, [16_000_000], family="every rule, 16 000 000 parameters")
    for option, value in OPTIONS.items():
        yield option_case(option, value, 1_000_000)
    for n in (1_000, 10_000, 100_000, 1_000_000, 16_000_000):
        yield step_case(f"Adam step(grads), {n}", "Adam", [n], dtype="float64").alone()


def tensors(sizes, dtype="float32") -> Callable[[], list[list]]:
    """A set-up that makes parameters and gradients of these sizes."""
    return lambda: [[random(n, dtype=dtype) for n in sizes] for _ in range(2)]


def step_case(what, rule, sizes, bound=False, dtype="float32", family="") -> Case:
    """One update of all tensors."""
    rewritten, in_optax = RULES[rule]
    options = {"lr": 1e-3, **({"momentum": 0.9} if rule == "SGD" else {})}

    def ours(params, grads):
        optimizer = getattr(optim, rule)(params, **options)
        if not bound:
            return lambda: optimizer.step(grads)
        optimizer.bind(grads)
        return optimizer.step

    def torch(params, grads):
        return torch_step(rule, options, params, grads)

    def jax(params, grads):
        return jax_step(in_optax, params, grads)

    peers, limit = {"torch": torch, "jax": jax}, plain_pass(rewritten)
    return Case(named(what, dtype), tensors(sizes, dtype), ours, peers, dtype=dtype, family=family, limit=limit)


def option_case(option, value, n) -> Case:
    """One update by Adam that looks after gradients or parameters too."""

    def ours(params, grads):
        adam = optim.Adam(params, lr=1e-3, **{option: value})
        return lambda: adam.step(grads)

    what, limit = f"Adam step(grads), {n}, {option}", plain_pass(RULES["Adam"][0])
    return Case(what, tensors([n]), ours, limit=limit, family="Adam step with options, 1 000 000 parameters")


def plain_pass(rewritten) -> Callable[..., Callable]:
    """The side that moves the memory of a step that rewrites so many arrays, and nothing else."""

    def prepare(params, grads):
        grad, *arrays = (random(sum(map(len, grads))) for _ in range(1 + rewritten))
        return lambda: core.plain_pass(grad, arrays)

    return prepare


def torch_step(rule, options, params, grads) -> Callable:
    """torch's fused step, or the faster of its other two where there is none on a CPU."""
    import torch

    if not hasattr(torch.optim, rule):
        raise ImportError(f"torch has no {rule}")
    tensors = [torch.tensor(p) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad)
    make = getattr(torch.optim, rule)
    try:
        return make(tensors, fused=True, **options).step
    except (TypeError, RuntimeError, ValueError):
        steps = [make(tensors, foreach=foreach, **options).step for foreach in (False, True)]
        return min(steps, key=lambda step: min(timeit.repeat(step, number=1, repeat=4)))


def jax_step(in_optax, params, grads) -> Callable:
    jax = one_thread_jax()
    import optax

    transform = in_optax(optax)
    params, grads = ([jax.numpy.array(a) for a in arrays] for arrays in (params, grads))
    held = [params, transform.init(params)]

    def update(params, state, grads):
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def call():
        held[:] = jax.block_until_ready(compiled(*held, grads))

    return call
