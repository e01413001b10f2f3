"""SLURM: a batch script; where branches are separate, an array with an element for each.

The tasks are the processes themselves, and have the signal that SLURM sends before the time is
over or the job is preempted. The shell outlives it, and asks for the job again.
"""

import shlex
from collections.abc import Sequence

from flashjax.launch.launchers.job import GRACE_SECONDS, INTERRUPTED, WRONG_INPUT, Launch

WAIT_SECONDS = 120  # for the other tasks, when one has ended: they hear of it, and leave


def slurm(launches: Sequence[Launch]) -> str:
    """The script."""
    first = launches[0]
    several = len(launches) > 1
    array = f"#SBATCH --array=0-{len(launches) - 1}\n" if several else ""
    log = "%x-%A_%a.log" if several else "%x-%j.log"
    setup = f"{{ {first.setup}; }} || exit\n" if first.setup else ""
    commands = "\n".join(f"  {shlex.quote(shlex.join(launch.words()))}" for launch in launches)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={first.name}
{array}#SBATCH --nodes={first.hosts}
#SBATCH --ntasks-per-node={first.devices_per_host}
#SBATCH --gpus-per-node={first.devices_per_host}
#SBATCH --time={first.hours}:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@{GRACE_SECONDS}
#SBATCH --open-mode=append
#SBATCH --output={log}
{setup}set -u
trap : TERM INT
COMMANDS=(
{commands}
)
CRASHES={shlex.quote(first.workdir)}/slurm-crashes-$SLURM_JOB_ID
mkdir -p {shlex.quote(first.workdir)}
srun --kill-on-bad-exit=0 --wait={WAIT_SECONDS} \\
  bash -c "exec ${{COMMANDS[${{SLURM_ARRAY_TASK_ID:-0}}]}}"
code=$?
case $code in
  0 | {WRONG_INPUT}) ;; # done, or a restart would not help
  {INTERRUPTED}) scontrol requeue "$SLURM_JOB_ID" ;; # everything is saved
  *) # a crash, of a host or of the network between them: some times
    echo "$(date) code $code on $SLURM_JOB_NODELIST" >>"$CRASHES"
    if [ "$(wc -l <"$CRASHES")" -le {first.restarts} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    ;;
esac
exit "$code"
"""
