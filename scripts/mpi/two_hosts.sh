#!/usr/bin/env bash
# Trains across two hosts that are network namespaces of this machine, joined by a veth pair: what goes over the wire is
# TCP between two addresses, as between machines. Run as root.
#
#   scripts/mpi/two_hosts.sh [--rate 1gbit] COMMAND...     e.g. target/release/reportclip bench collectives
#
# --rate limits both directions with `tc tbf`. COMMAND runs as one rank on each host.
set -euo pipefail
rate=
if [ "${1:-}" = --rate ]; then rate=$2; shift 2; fi
[ $# -gt 0 ] || { sed -n '2,8s/^# \?//p' "$0"; exit 2; }
here=$(mktemp -d)
hosts=(rc1 rc2)
addresses=(10.78.0.1 10.78.0.2)
clean() {
    for host in "${hosts[@]}"; do ip netns del "$host" 2>/dev/null || true; done
    rm -rf "$here"
}
trap clean EXIT
for host in "${hosts[@]}"; do ip netns add "$host"; done
ip link add rcv1 netns rc1 type veth peer name rcv2 netns rc2
for i in 0 1; do
    in="ip -n ${hosts[i]}"
    $in addr add "${addresses[i]}/24" dev "rcv$((i + 1))"
    $in link set "rcv$((i + 1))" up
    $in link set lo up
    if [ -n "$rate" ]; then
        ip netns exec "${hosts[i]}" tc qdisc add dev "rcv$((i + 1))" root tbf rate "$rate" burst 256kb latency 50ms
    fi
done
printf '%s slots=1\n' "${addresses[@]}" > "$here/hosts"
# In the place of ssh: the other namespace, under a host name of its own, so that MPI sees two hosts.
cat > "$here/rsh" <<'EOF'
#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift; done
case $1 in
10.78.0.1) host=rc1 ;;
10.78.0.2) host=rc2 ;;
*) echo "no host $1" >&2; exit 1 ;;
esac
shift
exec ip netns exec "$host" unshare --uts bash -c "hostname $host; exec bash -c \"\$0\"" "$*"
EOF
chmod +x "$here/rsh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ip netns exec rc1 unshare --uts bash -c 'hostname rc1; exec "$@"' bash \
    mpirun --bind-to none --hostfile "$here/hosts" --mca plm_rsh_agent "$here/rsh" --mca btl tcp,self --mca coll_libnbc_iallreduce_algorithm 1 \
    -x RAYON_NUM_THREADS="${RAYON_NUM_THREADS:-1}" -n 2 "$@"
