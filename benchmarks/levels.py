"""What a step costs at each level of configs/optimizer_cubed.yaml, in time and memory, each in a process of its own.

    python -m benchmarks.levels

All levels have the same 256 quadratics at the bottom. A step of level 1 moves their coordinates, one of level 2 moves
phi of 16 rules after 20 steps on 16 quadratics each, one of level 3 moves psi after 20 steps of level 2.
"""

import argparse
import json
import sys
from collections.abc import Callable

from benchmarks.child import child
from benchmarks.tables import markdown

TRAININGS, INNER, UNROLL, DIM = 16, 16, 20, 10
Step = Callable[[int], object]


def step_of(level: int, second_order: bool) -> Step:
    """A function of the step's number; torch and all are imported here, for the parent shall stay small."""
    import torch

    from l2l_lightning.core.estimators.backpropagation import backpropagate
    from l2l_lightning.core.objective import Objective
    from l2l_lightning.core.problems import Problems
    from l2l_lightning.core.random import Split
    from l2l_lightning.core.rule import RuleInput
    from l2l_lightning.core.state import fresh_state
    from l2l_lightning.data import MetaTrainingDataModule, QuadraticDataModule
    from l2l_lightning.optimizees import MetaTrainingProblem, Quadratic
    from l2l_lightning.rules import CoordinatewiseLSTM, KMomentums

    quadratic, mlp = Quadratic(DIM), KMomentums(k=5, hidden_size=20, eta_min=0.01)
    generator = torch.Generator().manual_seed(0)
    if level == 1:
        problems = Problems(quadratic)
        theta = problems.draw(TRAININGS * INNER, generator)
        instance, _ = QuadraticDataModule(DIM).draw(generator, len(theta))
        state = mlp.init_state(theta, problems.layout)

        def step(number: int) -> None:
            nonlocal theta, state
            with torch.no_grad():
                loss, grad = problems.losses_and_grads(theta, instance)
                t, total = torch.full((len(theta),), number), torch.zeros(len(theta))
                update, state = mlp(RuleInput(theta, grad, loss, t, total, problems.layout), state)
                theta = theta + update

        return step

    training = MetaTrainingProblem(mlp, quadratic, UNROLL, second_order=second_order)
    problems = Problems(training)
    data = MetaTrainingDataModule(QuadraticDataModule(DIM, problems=INNER), unroll=UNROLL, problems=TRAININGS, seed=0)
    data.bind(training)
    phi = problems.draw(TRAININGS, generator)
    window = data.window(Split.TRAIN, 0)
    if level == 2:
        return lambda number: problems.losses_and_grads(phi, window.data(number % (UNROLL + 1), {}))

    lstm = CoordinatewiseLSTM(output_scale=0.1)
    optimizer = torch.optim.Adam(lstm.parameters(), lr=1e-3)
    start = fresh_state(phi, lstm.init_state(phi, problems.layout), {}, torch.full((TRAININGS,), 100))

    def outermost(number: int) -> None:
        optimizer.zero_grad()
        backpropagate(lstm, problems, start, window, Objective(transform="log"), second_order).meta_loss.backward()
        optimizer.step()

    return outermost


def measure(level: int, second_order: bool, seconds: float, threads: int) -> dict[str, float | None]:
    """The reading of this process; warm-up, which includes the recording, does not count."""
    import torch

    from benchmarks.meter import Meter

    torch.set_num_threads(threads)
    step = step_of(level, second_order)
    torch.func.vmap(torch.func.grad(torch.square))(torch.ones(1))  # modules that every level imports
    meter, number = Meter(1, seconds, 10**9), 0
    step(number)
    while meter.window_done():
        number += 1
        step(number)
    return meter.reading()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.levels", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--level", type=int, choices=(1, 2, 3), help="measure this one alone, here, and print JSON")
    parser.add_argument("--second_order", type=int, choices=(0, 1), default=0, help="of a single level")
    args = parser.parse_args()
    if args.seconds <= 0 or args.threads < 1:
        parser.error("--seconds must be positive, --threads at least 1")
    if args.level:
        print(json.dumps(measure(args.level, bool(args.second_order), args.seconds, args.threads)))
        return
    rows = []
    for level, second_order in ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1)):
        options = {"level": level, "second_order": second_order, "seconds": args.seconds}
        reading = child("benchmarks.levels", threads=args.threads, **options)
        each, added = 1000 / reading["steps_per_second"], reading["peak"] - reading["baseline"]
        order = ("first", "second")[second_order] if level > 1 else "-"
        rows.append([str(level), order, f"{each:.3g}", f"{added:,.0f}"])
        print(f"level {level}, {order} order: {each:.3g} ms", file=sys.stderr)
    print(markdown(["level", "derivatives", "ms a step", "MiB added"], rows))


if __name__ == "__main__":
    main()
