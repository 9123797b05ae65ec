"""Search the outer learning rate, the unroll and the size of the rule with Optuna (pip install l2l_lightning[sweep]).

python examples/optuna_sweep.py --config configs/quadratic_lstm.yaml --trials 50

Start the same command again, as often as there are processors: all work on one study, which may be stopped between.
What follows the options above goes to every `l2l fit`, such as `--trainer.max_epochs 3`.
"""

import argparse
import shlex
from statistics import mean

import optuna
from filelock import FileLock

from l2l_lightning.cli.main import run
from l2l_lightning.core.errors import InputError, RunError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--config", default="configs/quadratic_smoke.yaml")
parser.add_argument("--storage", default="sqlite:///sweep.db", help="a database that all processes reach")
parser.add_argument("--study", default="sweep", help="name within the storage")
parser.add_argument("--trials", type=int, default=20, help="of all processes together")
parser.add_argument("--seeds", type=int, default=2, help="runs a trial; their mean counts")
options, further = parser.parse_known_args()


def command(parameters: dict[str, float], seed: int) -> list[str]:
    """The words after `l2l` of a run with these parameters."""
    values = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
    return ["fit", "--config", options.config, *further, *values, "--seed_everything", str(seed)]


def objective(trial: optuna.Trial) -> float:
    """Mean loss of the trained rule over the held-out problems' trajectories and the seeds."""
    trial.suggest_float("model.optimizer.init_args.lr", 1e-4, 1e-1, log=True)
    trial.suggest_categorical("model.unroll", [5, 10, 20])
    trial.suggest_int("model.rule.init_args.hidden_size", 4, 32, log=True)
    try:
        runs = [run(command(trial.params, seed)) for seed in range(options.seeds)]
    except (RunError, InputError) as error:  # it diverged, or these values do not go together
        raise optuna.TrialPruned(str(error)) from error
    return mean(float(done.trainer.callback_metrics["val/mean_loss"]) for done in runs)


with FileLock(f"{options.study}.lock"):  # processes that start at once would both make the database's tables
    study = optuna.create_study(storage=options.storage, study_name=options.study, load_if_exists=True)
ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
if len(study.get_trials(states=ended)) < options.trials:
    study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(options.trials, states=ended)])
if all(trial.state != ended[0] for trial in study.trials):
    raise SystemExit("No trial ended well; the lines above say why.")
print(f"best of {len(study.get_trials(states=ended))} trials: mean loss {study.best_value:.4g}")
print("l2l " + shlex.join(command(study.best_params, seed=0)))
