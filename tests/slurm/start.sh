#!/bin/bash
# A whole Slurm on one machine: munged, slurmctld and slurmd on loopback, all files under $1.
#   start.sh DIR [CPUS]      start; prints "ready" or says what is missing and exits 1
#   start.sh DIR stop        end what this script started
#   start.sh DIR restart     stop and start the controller alone
# Needs root (slurmd changes users) and Debian's slurm-wlm and munge. Nothing outside 127.0.0.1.
set -u
DIR=$(mkdir -p "$1" && cd "$1" && pwd)
WHAT=${2:-start}
CONF="$DIR/slurm.conf"
export SLURM_CONF="$CONF"

fail() { echo "slurm: $*"; exit 1; }
stop_one() { [ -s "$DIR/$1.pid" ] && kill "$(cat "$DIR/$1.pid")" 2>/dev/null; }
controller() {
  /usr/sbin/slurmctld -f "$CONF" >>"$DIR/slurmctld.out" 2>&1 || fail "slurmctld: $(tail -1 "$DIR/slurmctld.out")"
}

case "$WHAT" in
stop)
  stop_one slurmd; stop_one slurmctld; stop_one munged
  exit 0 ;;
stop-controller)
  stop_one slurmctld
  exit 0 ;;
restart)
  stop_one slurmctld
  for _ in $(seq 100); do pgrep -F "$DIR/slurmctld.pid" >/dev/null 2>&1 || break; sleep 0.2; done
  controller
  exit 0 ;;
esac

for tool in slurmctld slurmd munged; do
  [ -x "/usr/sbin/$tool" ] || fail "$tool is not installed (apt-get install slurm-wlm munge)"
done
[ "$(id -u)" = 0 ] || fail "it must be started as root"
CPUS=${2:-2}
PORT=$((20000 + $$ % 20000))
HOST=$(hostname -s)
mkdir -p "$DIR/state" "$DIR/spool" "$DIR/munge"
chmod 755 "$DIR"; chmod 700 "$DIR/munge"
head -c 1024 /dev/urandom >"$DIR/munge/key"; chmod 600 "$DIR/munge/key"
cat >"$CONF" <<EOF
ClusterName=loopback
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
CryptoType=crypto/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
JobRequeue=1
MinJobAge=10
KillWait=3
UnkillableStepTimeout=600
InactiveLimit=0
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
EOF
/usr/sbin/munged --socket="$DIR/munge/socket" --key-file="$DIR/munge/key" --pid-file="$DIR/munged.pid" \
  --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed" --force >>"$DIR/munged.out" 2>&1 ||
  fail "munged: $(tail -1 "$DIR/munged.out")"
controller
/usr/sbin/slurmd -f "$CONF" >>"$DIR/slurmd.out" 2>&1 || fail "slurmd: $(tail -1 "$DIR/slurmd.out" "$DIR/slurmd.log" 2>/dev/null)"
for _ in $(seq 150); do
  if sinfo -h -o %t 2>/dev/null | grep -q -E '^(idle|mix|alloc)$'; then echo ready; exit 0; fi
  sleep 0.2
done
fail "the node did not come up: $(tail -1 "$DIR/slurmctld.log")"
