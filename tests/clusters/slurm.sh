#!/bin/bash
# Start a Slurm cluster of two nodes on this machine, run a command on it, and stop it.
#
#     bash tests/clusters/slurm.sh FOLDER COMMAND...
#
# FOLDER gets the cluster's state and logs. Needs Debian's slurm-wlm and munge, and root. Two slurmd daemons with
# different ports and names share the machine's cores; there is no accounting, and memory is not limited.
set -euo pipefail
FOLDER=$(realpath -m "$1"); shift
mkdir -p "$FOLDER"/{state,spool-one,spool-two,munge}
NODE=$(hostname -s)
CORES=$(nproc)
export SLURM_CONF=$FOLDER/slurm.conf
cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$NODE(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge/socket
CredType=cred/munge
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool-%n
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd-%n.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MinJobAge=600
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
NodeName=one NodeHostname=$NODE NodeAddr=127.0.0.1 Port=17001 CPUs=$CORES RealMemory=8000 State=UNKNOWN
NodeName=two NodeHostname=$NODE NodeAddr=127.0.0.1 Port=17002 CPUs=$CORES RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=one,two Default=YES MaxTime=INFINITE State=UP
CONF

PIDS=()
stop() {
    set +e
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null; done
}
trap stop EXIT

dd if=/dev/urandom of="$FOLDER/munge/key" bs=128 count=1 status=none
chmod 600 "$FOLDER/munge/key"
chown -R "$(id -u)" "$FOLDER/munge"
munged --foreground --force --key-file="$FOLDER/munge/key" --socket="$FOLDER/munge/socket" \
    --pid-file="$FOLDER/munge/pid" --seed-file="$FOLDER/munge/seed" --log-file="$FOLDER/munge/log" &
PIDS+=($!)
sleep 1
slurmctld -D -i >"$FOLDER/slurmctld.out" 2>&1 &
PIDS+=($!)
for name in one two; do
    slurmd -D -N "$name" >"$FOLDER/slurmd-$name.out" 2>&1 &
    PIDS+=($!)
done
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%D --states=idle 2>/dev/null || true)" = 2 ] && break
    sleep 0.5
done
sinfo
"$@"
