#!/usr/bin/env bash
# Ten seeds as a SLURM job array: sbatch examples/slurm_array.sh [configs/FILE.yaml]
# 90 seconds before its time is over a task has Lightning requeue it; then, and after a node's failure, it goes on from
# its last checkpoint, which is at most a minute old.
#SBATCH --job-name=l2l
#SBATCH --array=0-9
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@90
#SBATCH --open-mode=append
set -euo pipefail

# A folder a task: Lightning keeps hpc_ckpt_N.ckpt there and starts from it, so two tasks must never share one.
srun l2l fit --config "${1:-configs/quadratic_lstm.yaml}" \
  --seed_everything "$SLURM_ARRAY_TASK_ID" \
  --trainer.default_root_dir "logs/array_${SLURM_ARRAY_JOB_ID}/seed_${SLURM_ARRAY_TASK_ID}" \
  --last_checkpoint.every_seconds 60 \
  --ckpt_path auto
