#!/bin/bash

#SBATCH -J staffa-v1.0_protein-driver-0d4a69
#SBATCH -n 1
#SBATCH --cpus-per-task=1
#SBATCH --mem=2048M
#SBATCH -t 1-00:00:00
#SBATCH --nodes=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/driver-%j.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --partition=cpu
export STAFFA_STARTED=$(date +%s)
exec /home/someone/staffa/bin/python -m staffa resume /scratch/someone/runs/v1.0_protein
