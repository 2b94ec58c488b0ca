#!/bin/sh
# Prolog of Slurm, for nodes that are allocated whole: before a job, is this node fit?
#
#   slurm.conf:  Prolog=/etc/slurm/genqual-prolog.sh   PrologFlags=Alloc   PrologEpilogTimeout=180
#
# slurmd runs it as root and without a PATH. A status other than 0 drains the node and puts the job back into its queue:
# 1 (unfit) and 2 (it could not run) both do, since a node that nobody could check is not known to be fit.
# It uses every core for a minute; where jobs share nodes, run it from the epilog of the last one, or by a reservation.
set -u
PATH="${GENQUAL_PATH:-/opt/genqual/bin:/usr/bin:/bin}"
export PATH
out="${GENQUAL_NODE_DIR:-/var/lib/genqual}"
umask 022
mkdir -p "$out" || exit 2
genqual node --level 1 --state "$out/state.json" --json "$out/node.json.new" >/dev/null 2>"$out/node.log"
status=$?
# The document of a check that did not run is not written: the old one stays, and gets too old to count.
if [ -s "$out/node.json.new" ]; then
  mv "$out/node.json.new" "$out/node.json" || exit 2
fi
exit "$status"
