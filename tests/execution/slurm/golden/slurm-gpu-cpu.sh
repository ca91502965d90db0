#!/bin/bash

#SBATCH -J staffa-v1.0_protein-cpu-0d4a69
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16384M
#SBATCH -t 02:00:00
#SBATCH --nodes=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/cpu-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
export STAFFA_STARTED=$(date +%s)
export JAX_ENABLE_X64=0
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false --xla_dump_to='
trap : TERM
/home/someone/staffa/bin/python -m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name ${SLURM_ARRAY_JOB_ID}-${SLURM_ARRAY_TASK_ID} --nthreads 8 --memory-limit 16.00GiB --death-timeout 600 --pool cpu --workers 1 --gpus 0 --walltime 7200
