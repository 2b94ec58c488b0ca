#!/bin/sh
# Epilog of Slurm: after the last job on this node, is it still fit? A status other than 0 drains the node.
#
#   slurm.conf:  Epilog=/etc/genqual/slurm-epilog.sh   PrologEpilogTimeout=180
#
# It stands beside slurm-prolog.sh, which it runs, and reads the same settings, genqual.conf.
# squeue is asked which jobs are left: a check beside another job would measure that job.
set -u
settings="$(dirname "$0")/genqual.conf"
[ ! -r "$settings" ] || . "$settings" || exit 2
PATH="${GENQUAL_PATH:-/opt/genqual/bin:/usr/bin:/bin}"
export PATH
jobs=$(squeue --noheader --nodelist="${SLURMD_NODENAME:-$(hostname -s)}" --states=running --format=%A) || exit 2
for job in $jobs; do
  [ "$job" = "${SLURM_JOB_ID:-}" ] || exit 0
done
exec "$(dirname "$0")/slurm-prolog.sh"
