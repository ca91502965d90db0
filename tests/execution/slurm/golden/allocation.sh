#!/bin/bash


export STAFFA_STARTED=$(date +%s)
export JAX_ENABLE_X64=0
export XLA_FLAGS='--xla_cpu_multi_thread_eigen=false --xla_dump_to='
trap : TERM
srun --overlap --cpus-per-task=64 --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 /home/someone/staffa/bin/python -m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name ${SLURM_JOB_ID}-0 --nthreads 8 --memory-limit 64.00GiB --death-timeout 600 --pool allocation --workers 4 --gpus 4
