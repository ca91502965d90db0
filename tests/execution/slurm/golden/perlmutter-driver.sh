#!/bin/bash

#SBATCH -J staffa-v1.0_protein-driver-0d4a69
#SBATCH -n 1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8192M
#SBATCH -t 1-00:00:00
#SBATCH --nodes=1
#SBATCH --output=/scratch/someone/runs/v1.0_protein/logs/driver-%j.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --account=m0000
#SBATCH --qos=shared
#SBATCH --constraint=cpu
export STAFFA_STARTED=$(date +%s)
module load cudatoolkit
exec /home/someone/staffa/bin/python -m staffa resume /scratch/someone/runs/v1.0_protein
