#!/bin/bash

#SBATCH -J staffa-v1.0_protein-gpu-0d4a69
#SBATCH -n 1
#SBATCH --cpus-per-task=128
#SBATCH -t 06:00:00
#SBATCH --nodes=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/gpu-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --account=m0000
#SBATCH --qos=regular
#SBATCH --constraint=gpu
#SBATCH --gpus-per-node=4
export STAFFA_STARTED=$(date +%s)
module load cudatoolkit
export JAX_ENABLE_X64=0
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false --xla_dump_to='
trap : TERM
/home/someone/staffa/bin/python -m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name ${SLURM_ARRAY_JOB_ID}-${SLURM_ARRAY_TASK_ID} --nthreads 8 --memory-limit 60.00GiB --death-timeout 600 --pool gpu --workers 4 --gpus 4 --walltime 21600 --interface hsn0
