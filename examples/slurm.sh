#!/bin/bash
# Training on two nodes of eight GPUs under Slurm; a run that reaches the time limit saves, and its job continues it.
#
#   sbatch examples/slurm.sh RUN_DIR CONFIG.yaml [key=value ...]
#
# RUN_DIR, CONFIG.yaml, the data and the model must be on a file system that all nodes see. Two minutes before the time
# limit Slurm sends SIGTERM to this script, which passes it on to torchrun: the ranks drop or finish the step, write a
# checkpoint and end, and the job is queued again. A second job with the same RUN_DIR resumes the run, too.
#SBATCH --job-name=edge-grpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -u
run=$1
shift
if [ -f "$run/config.yaml" ]; then
    words=(--resume "$run")
else
    words=("$@" "run.dir=$run")
fi

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} # torchrun's own choice is 1, too few for distributed.cpu_offload

# Once one node's torchrun has ended, the others get three minutes: to save after a stop, and not to wait for a lost rank.
srun --kill-on-bad-exit=0 --wait=180 torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node=8 --rdzv-backend=c10d \
    --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" --shutdown-timeout=110 \
    -m edge_grpo train "${words[@]}" &
step=$!

# One rank's signal stops all ranks; a second one would end them at once. So it goes to this node's torchrun alone, and
# not to the step, whose every process Slurm would signal.
stopped=
trap 'stopped=yes; pkill -TERM -f "python.* --rdzv-id=$SLURM_JOB_ID "' TERM

while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
done
if [ -n "$stopped" ] && [ ! -d "$run/final" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
