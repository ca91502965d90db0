#!/bin/bash

#SBATCH -J staffa-v1.0_protein-gpu-0d4a69
#SBATCH --cpus-per-task=64
#SBATCH --mem=2048M
#SBATCH -t 01:00:00
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/gpu-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --gres=gpu:4
#SBATCH --exclusive
#SBATCH --comment='it\'s mine'
export STAFFA_STARTED=$(date +%s)
module load cuda
ulimit -s unlimited
export JAX_ENABLE_X64=0
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false --xla_dump_to='
export STAFFA_STAGE="${TMPDIR:-/tmp}/staffa-env"-$SLURM_JOB_ID
trap 'srun --cpus-per-task=64 --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 rm -rf -- "$STAFFA_STAGE"' EXIT
srun --cpus-per-task=64 --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c 'set -e
[ -O "$2" ] && [ -x "$2/bin/python" ] && exit
aside=$2.$SLURMD_NODENAME
tidy() { rm -rf -- "$aside"; }
trap tidy EXIT
tidy
mkdir -p -- "$(dirname -- "$aside")"
mkdir -m 700 -- "$aside"
case $1 in
*.tar.zst) tar --use-compress-program=unzstd -xf "$1" -C "$aside" ;;
*.tar | *.tar.gz | *.tgz) tar -xf "$1" -C "$aside" ;;
*) cp -a -- "$1/." "$aside/" ;;
esac
if [ ! -x "$aside/bin/python" ]; then
    echo "staffa: $1 has no bin/python: pack an environment from inside (tar -C FOLDER -cf ARCHIVE .)"
    exit 1
fi
mv -T -- "$aside" "$2" || [ -O "$2" ]
' stage "$SCRATCH/my env.tar.zst" "$STAFFA_STAGE" ||
    { echo "staffa: no environment in $STAFFA_STAGE, to be staged from" "$SCRATCH/my env.tar.zst"; exit 1; }
trap : TERM
srun --cpus-per-task=64 --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 apptainer exec --nv $SCRATCH/staffa.sif "$STAFFA_STAGE/bin/python" -m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name ${SLURM_ARRAY_JOB_ID}-${SLURM_ARRAY_TASK_ID} --nthreads 8 --memory-limit 256.00MiB --death-timeout 600 --pool gpu --workers 8 --gpus 4 --workers-per-gpu 2 --walltime 3600
