#!/bin/sh
# Prolog of Slurm, for nodes that are allocated whole: before a job, is this node fit?
#
#   slurm.conf:  Prolog=/etc/genqual/slurm-prolog.sh   PrologFlags=Alloc   PrologEpilogTimeout=180
#
# slurmd runs it as root, without a PATH and without the environment that slurmd itself has. Settings stand in the file
# genqual.conf beside this script, in the shell's words:
#
#   GENQUAL_PATH=/opt/genqual/bin:/usr/bin:/bin      where genqual, scontrol and squeue are
#   GENQUAL_NODE_DIR=/var/lib/genqual                node.json, the last document, and node.log
#   GENQUAL_NODE_OPTIONS="--level 1"                 words for `genqual node`, such as --allow FILE
#
# A status other than 0 drains the node: 1 (unfit) and 2 (it could not run) both do, since a node that nobody could
# check is not known to be fit. A batch job goes back into its queue and is held there. Once the node is mended:
#   scontrol update nodename=NODE state=resume; scontrol release JOB
# Slurm starts a requeued job two minutes later at the earliest.
# It uses every core for a minute; where jobs share nodes, run it from the epilog of the last one, or by a reservation.
set -u
settings="$(dirname "$0")/genqual.conf"
[ ! -r "$settings" ] || . "$settings" || exit 2
PATH="${GENQUAL_PATH:-/opt/genqual/bin:/usr/bin:/bin}"
export PATH
out="${GENQUAL_NODE_DIR:-/var/lib/genqual}"
umask 022
mkdir -p "$out" || exit 2
rm -f "$out/node.json.new"
# The options are several words: unquoted on purpose.
genqual node ${GENQUAL_NODE_OPTIONS:---level 1} --state "$out/state.json" --json "$out/node.json.new" \
  >/dev/null 2>"$out/node.log"
status=$?
# The document of a check that did not run is not written: the old one stays, and gets too old to count.
if [ -s "$out/node.json.new" ]; then
  mv "$out/node.json.new" "$out/node.json" || exit 2
fi
if [ "$status" -ne 0 ]; then
  # Slurm's own reason would be "Prolog error" and name no check; it keeps one that is there. Scripts such as this one
  # should not call Slurm's commands: this one does so only where a node goes out of service.
  said=$(grep -m 1 -E ': (bad|unknown|unavailable): |: required, and never ran|could not run' "$out/node.log" ||
    tail -n 1 "$out/node.log")
  said=$(printf '%s' "${said#genqual node: }" | tr -c '[:alnum:] .,:;()/_%+<>=-' ' ' | cut -c 1-200)
  scontrol update nodename="${SLURMD_NODENAME:-$(hostname -s)}" state=drain reason="genqual node: $said" || :
fi
exit "$status"
