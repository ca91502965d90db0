#!/bin/bash

#SBATCH -J staffa-v1.0_protein-gpu-0d4a69
#SBATCH -n 1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32768M
#SBATCH -t 04:00:00
#SBATCH --nodes=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/gpu-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --gres=gpu:1
export STAFFA_STARTED=$(date +%s)
export JAX_ENABLE_X64=0
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false --xla_dump_to='
trap : TERM
/home/someone/staffa/bin/python -m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name ${SLURM_ARRAY_JOB_ID}-${SLURM_ARRAY_TASK_ID} --nthreads 8 --memory-limit 32.00GiB --death-timeout 600 --pool gpu --workers 1 --gpus 1 --walltime 14400
