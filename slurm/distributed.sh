#!/bin/bash
# One model over the devices of several nodes: its states are shared, so that a grid too large for
# one device fits. Copy this file, set what is yours, and: sbatch distributed.sh
#
# The solve writes checkpoints into its store. The same job, submitted again or requeued, goes on.

#SBATCH --job-name=dpsolve-distributed
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1       # one process for each node, which owns all its GPUs
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:4              # of each node; leave it out to compute on CPUs
#SBATCH --mem=64G                 # of each node
#SBATCH --time=04:00:00
#SBATCH --requeue                 # after a node failure or preemption
#SBATCH --open-mode=append
#SBATCH --output=distributed-%j.log
##SBATCH --account=my_project
##SBATCH --partition=gpu

MODEL=${MODEL:-savings}           # or my_model.py:my_model
STORE=${STORE:-distributed.zarr}  # on a disk that all nodes share
# States are cut over devices where choices are made on a grid; continuous ones are solved on one.
SIZES=${SIZES:---set continuous=false --set n_a=200000 --set n_z=25}

# What the submitting shell exports does not decide what this computes on: set it below this line.
unset "${!JAX_@}" "${!XLA_@}"

# source /scratch/$USER/dpsolve/bin/activate

# A process that dies takes the others with it: none waits for it until the walltime.
exec srun --kill-on-bad-exit=1 dpsolve solve "$MODEL" $SIZES --tol 1e-6 --distributed --store "$STORE"
